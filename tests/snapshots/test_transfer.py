"""Who needs entries that are gone gets an image, whatever is lost on the way."""

import contextlib
import threading

import pytest

from raftlog.exceptions import NodeUnavailable, NotLeader, TransportError
from raftlog.snapshots import pulling, serving
from tests.snapshots.cluster import SnapshotCluster


@pytest.fixture(autouse=True)
def small_and_fast(monkeypatch):
    monkeypatch.setattr(serving, "CHUNK_BYTES", 500)
    monkeypatch.setattr(pulling, "PAUSE", 0.05)
    monkeypatch.setattr(pulling, "LOOK", 0.01)
    monkeypatch.setattr(pulling, "REPORT", 0.0)


@pytest.fixture
def cluster(tmp_path):
    with SnapshotCluster(3, tmp_path) as made:
        made.write(200)
        made.wait_equal()
        yield made


def lose_database(cluster, node_id):
    """The log does not have what it lacks any more."""
    cluster.compact(node_id)
    cluster.machines[node_id].is_lost = True


def wait_healed(cluster, node_id):
    cluster.wait(lambda: cluster.machines[node_id].installed, "an image is installed")
    cluster.wait_equal()


def hold(cluster, node_id, after):
    """Let `node_id` have so many chunks of an image, and then wait: (it waits, let it go on)."""
    waits, goes_on = threading.Event(), threading.Event()
    seen = []

    def before(asker, peer, name, arguments):
        if asker == node_id and name == "snapshot_read":
            seen.append(peer)
            if len(seen) > after and not goes_on.is_set():
                waits.set()
                assert goes_on.wait(60)

    cluster.before_request = before
    return waits, goes_on


def offsets(cluster, node_id):
    return [offset for asker, _, offset in cluster.chunks if asker == node_id]


def test_a_database_that_is_behind_the_log_becomes_an_image(cluster):
    follower = cluster.followers()[0]
    lose_database(cluster, follower)
    cluster.write(5)
    wait_healed(cluster, follower)
    cluster.wait(lambda: not list((cluster.folder / follower / "incoming").iterdir()), "the file is removed")
    cluster.wait(lambda: cluster.pullers[follower].status() is None, "nothing is pulled any more")


def test_a_leader_that_lost_its_database_gives_leadership_up_and_heals(cluster):
    leader = cluster.leader()
    lose_database(cluster, leader)
    cluster.write(5)
    wait_healed(cluster, leader)


def test_a_follower_that_was_away_beyond_the_kept_tail_gets_an_image_and_then_entries(cluster):
    follower = cluster.followers()[0]
    cluster.stop(follower)
    cluster.write(50)
    cluster.wait_equal()
    cluster.compact(*cluster.servers)
    cluster.start(follower)
    cluster.write(5)
    cluster.wait_equal()
    assert len(cluster.machines[follower].installed) == 1


def test_a_lost_connection_costs_nothing_that_was_received(cluster):
    follower = cluster.followers()[0]
    failures = []

    def before(asker, peer, name, arguments):
        if name == "snapshot_read" and arguments["offset"] >= 2000 and len(failures) < 2:
            failures.append(arguments["offset"])
            raise NodeUnavailable("the connection was lost")

    cluster.before_request = before
    lose_database(cluster, follower)
    wait_healed(cluster, follower)
    assert failures == [2000, 2000]
    found = offsets(cluster, follower)
    assert found == sorted(set(found))


def test_a_restart_costs_nothing_that_was_received(cluster):
    follower = cluster.followers()[0]
    waits, goes_on = hold(cluster, follower, after=5)
    lose_database(cluster, follower)
    assert waits.wait(60)
    stopping = threading.Thread(target=cluster.stop, args=[follower])
    stopping.start()
    cluster.wait(lambda: cluster.pullers[follower]._stopping.is_set(), "it is told to stop")
    goes_on.set()
    stopping.join(60)
    received = len(offsets(cluster, follower))
    cluster.start(follower)
    wait_healed(cluster, follower)
    found = offsets(cluster, follower)
    assert received >= 5
    assert found == sorted(set(found))


def test_status_tells_how_far_it_is(cluster):
    follower = cluster.followers()[0]
    waits, goes_on = hold(cluster, follower, after=5)
    lose_database(cluster, follower)
    assert waits.wait(60)
    status = cluster.pullers[follower].status()
    assert (status["step"], status["bytes"]) == ("pulling an image from", 2500)
    assert status["percent"] == round(100 * 2500 / status["total"], 1)
    words = cluster.pullers[follower].words()
    assert words.startswith(f"pulling an image from {status['from']}, at entry {status['index']}: ")
    assert "% of 0.0 MB" in words
    goes_on.set()
    wait_healed(cluster, follower)
    cluster.wait(lambda: not cluster.pullers[follower].words(), "nothing is pulled any more")


def test_a_change_of_leader_does_not_stop_it(cluster):
    follower = cluster.followers()[0]
    waits, goes_on = hold(cluster, follower, after=5)
    lose_database(cluster, follower)
    assert waits.wait(60)
    leader = cluster.leader()
    other = next(node_id for node_id in cluster.servers if node_id not in (leader, follower))

    def other_leads():
        if cluster.leaders() == [leader]:
            with contextlib.suppress(NotLeader, ValueError):
                cluster.servers[leader].state.transfer_leadership(other)
        return cluster.leaders() == [other]

    cluster.wait(other_leads, "another one leads")
    goes_on.set()
    cluster.write(5)
    wait_healed(cluster, follower)
    assert len(cluster.machines[follower].installed) == 1
    found = offsets(cluster, follower)
    assert found == sorted(set(found))


def test_where_the_source_is_gone_another_one_is_asked(cluster):
    follower = cluster.followers()[0]
    asked = []

    def before(asker, peer, name, arguments):
        asked.append(peer)
        if name == "snapshot_read" and peer == asked[0] and arguments["offset"] >= 2000:
            raise TransportError(f"{peer} is gone")

    cluster.before_request = before
    lose_database(cluster, follower)
    wait_healed(cluster, follower)
    assert len(set(asked)) == 2
    cluster.wait(lambda: cluster.pullers[follower].status() is None, "it is told everywhere")
    counts = cluster.tallies[follower].as_data()
    made = cluster.tallies[asked[-1]].as_data()["make"]
    assert made["done"] == 1
    assert made["seconds"] > 0
    assert (counts["pull"]["done"], counts["pull"]["failed"]) == (1, 1)
    assert counts["pull"]["bytes"] == sum(min(500, made["bytes"] - offset) for offset in offsets(cluster, follower))
    assert (counts["install"]["done"], counts["install"]["bytes"]) == (1, made["bytes"])


def test_an_image_that_cannot_be_installed_is_counted_as_such(cluster):
    follower = cluster.followers()[0]
    machine = cluster.machines[follower]
    install, failures = machine.install, ["no room", "no room"]

    def fails_at_first(path, *, on_progress):
        if failures:
            raise OSError(failures.pop())
        return install(path, on_progress=on_progress)

    machine.install = fails_at_first
    lose_database(cluster, follower)
    wait_healed(cluster, follower)
    counts = cluster.tallies[follower].as_data()["install"]
    assert (counts["done"], counts["failed"]) == (1, 2)


def test_where_the_image_is_gone_another_one_is_made(cluster):
    follower = cluster.followers()[0]
    gone = []

    def before(asker, peer, name, arguments):
        server = cluster.image_servers[peer]
        if name == "snapshot_read" and arguments["offset"] >= 2000 and not gone:
            with server._lock:
                for image in list(server._images.values()):
                    gone.append(image.id)
                    server._remove(image)

    cluster.before_request = before
    lose_database(cluster, follower)
    wait_healed(cluster, follower)
    assert gone
    assert cluster.machines[follower].installed


def test_damage_on_the_way_is_found_and_the_image_pulled_again(cluster):
    follower = cluster.followers()[0]
    damaged = []

    def before(asker, peer, name, arguments):
        part = cluster.folder / follower / "incoming" / "part"
        if name == "snapshot_read" and arguments["offset"] >= 2000 and not damaged:
            content = bytearray(part.read_bytes())
            content[700] ^= 1
            part.write_bytes(content)
            damaged.append(True)

    cluster.before_request = before
    lose_database(cluster, follower)
    wait_healed(cluster, follower)
    assert damaged
    assert offsets(cluster, follower).count(0) == 2


def test_an_image_that_was_whole_before_a_restart_is_installed_without_asking_anybody(cluster):
    follower = cluster.followers()[0]
    machine = cluster.machines[follower]
    installing, dies = threading.Event(), threading.Event()
    install = machine.install

    def interrupted(path, *, on_progress):
        installing.set()
        assert dies.wait(60)
        raise OSError("the process has ended")

    machine.install = interrupted
    lose_database(cluster, follower)
    assert installing.wait(60)
    stopping = threading.Thread(target=cluster.stop, args=[follower])
    stopping.start()
    cluster.wait(lambda: cluster.pullers[follower]._stopping.is_set(), "it is told to stop")
    dies.set()
    stopping.join(60)
    assert (cluster.folder / follower / "incoming" / "image").exists()
    machine.install = install
    del cluster.chunks[:]
    cluster.start(follower)
    wait_healed(cluster, follower)
    assert machine.installed
    assert offsets(cluster, follower) == []


def test_two_who_need_an_image_share_one(cluster):
    cluster.write(20)
    cluster.wait_equal()
    leader, followers = cluster.leader(), cluster.followers()
    made = []
    make_image = cluster.machines[leader].make_image
    for node_id in followers:
        cluster.stop(node_id)
        cluster.machines[node_id].reopen()
        cluster.log_stores[node_id].compact_to(cluster.servers[leader].state.raft.base_at(200))
    cluster.image_servers[leader]._make_image = lambda *args, **words: (made.append(1), make_image(*args, **words))[1]
    for node_id in followers:
        cluster.start(node_id)
    cluster.wait_equal()
    assert made == [1]
