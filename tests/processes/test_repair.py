"""A flipped byte in the log of one node of three: refused, repaired by command, not counted until it is whole again."""

import pytest

from raftlog.testing.processes import ProcessCluster
from raftlog.testing.writer import Writer, rows
from tests.processes.recipes import follow

pytestmark = pytest.mark.processes

TIMEOUT = 60  # seconds, on a machine that is busy


def flip_a_byte(node):
    """In the payload of the first record of the newest segment that has one."""
    for path in sorted(node.settings.data_dir.glob("*.segment"), reverse=True):
        with path.open("r+b") as file:
            file.seek(512)
            sector = file.read(512)
            if sector.strip(b"\0"):
                file.seek(512 + 100)
                file.write(bytes([sector[100] ^ 0x10]))
                return path
    raise AssertionError("no segment has a record")


def wait_for_writes(cluster, writer, count):
    seen = len(writer.acknowledged)
    cluster.wait_for(lambda _: len(writer.acknowledged) >= seen + count, TIMEOUT, "writes go on")


def problems_of(status):
    return " ".join(status["problems"]) if status else ""


def refuse_to_start(node, segment):
    """It ends at once, saying what is damaged and what to do."""
    node.start()
    assert node.wait(TIMEOUT) == 1
    said = node.output()
    for part in ("LogDamaged", f"{segment}, offset 512", "checksum", "entries from", "raft repair"):
        assert part in said
    node.stop()  # it has ended: it is not missed from here on


def does_not_count_until_it_is_repaired(cluster, damaged, other, writer):
    """Needed for the majority, it does not count: whoever led with it steps down, though it answers."""
    other.kill()
    printed = follow("repair", cluster)
    assert "votes and counts again once it has what it lost" in printed[0]

    def stands_still(statuses):
        up = [status for node_id, status in statuses.items() if node_id != other.node_id]
        repairing = "repairing: does not vote" in problems_of(statuses[damaged.node_id])
        return repairing and all(status and status["role"] != "leader" for status in up)

    cluster.wait_for(stands_still, TIMEOUT, "nobody leads with the one that is being repaired")
    acknowledged = len(writer.acknowledged)
    other.start()

    def is_repaired(statuses):
        status = statuses[damaged.node_id]
        return status and status["leader_id"] and "repairing" not in problems_of(status)

    cluster.wait_for(is_repaired, TIMEOUT, "it votes again")
    cluster.wait_for(lambda _: len(writer.acknowledged) > acknowledged, TIMEOUT, "writes go on")


def test_a_damaged_node_is_refused_repaired_and_not_counted_meanwhile(tmp_path):
    options = {"SEGMENT_BYTES": 1 << 16}
    bench_site = "raftlog.testing.bench_site.settings"
    with ProcessCluster(3, tmp_path, settings_module=bench_site, options=options) as cluster:
        cluster.start()
        cluster.wait_for_leader(TIMEOUT)
        home, other, damaged = cluster
        home.manage("migrate", "--run-syncdb", "--verbosity=0")
        writer = Writer(home.client(), pause=0.002)
        writer.start()
        wait_for_writes(cluster, writer, 100)
        damaged.kill()
        refuse_to_start(damaged, flip_a_byte(damaged))
        wait_for_writes(cluster, writer, 20)
        does_not_count_until_it_is_repaired(cluster, damaged, other, writer)
        other.kill()  # now it does count
        wait_for_writes(cluster, writer, 20)
        other.start()
        writer.stop()
        assert not writer.is_alive()
        cluster.wait_all_applied(TIMEOUT)
        damaged.manage("raft", "verify", "--database")
        writer.check(node.database for node in cluster)
        assert rows(home.database) == rows(other.database) == rows(damaged.database)
