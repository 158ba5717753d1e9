"""Nodes in one process that send each other images: real threads and files, logs in memory, no database."""

import threading

import msgspec

from raftlog.exceptions import DatabaseReplaced, NodeUnavailable, RaftlogError
from raftlog.replication.images import ImageHeader, read_header
from raftlog.replication.images.container import digest_content, digest_of, seal
from raftlog.replication.sessions import Sessions
from raftlog.runtime import snapshots
from raftlog.runtime.threads import NodeThread
from raftlog.snapshots.compaction import Compactor, LogFile, Policy
from raftlog.snapshots.healing import Healing
from raftlog.snapshots.pulling import Puller
from raftlog.snapshots.serving import ImageServer
from raftlog.snapshots.tally import Tally
from raftlog.transport.outstanding import RequestFailed
from tests.runtime import cluster as runtime
from tests.runtime.cluster import RecordingMachine

NEVER = Policy(1 << 40, 1 << 40, 1e12, 0, 0)
NOTHING_KEPT = Policy(0, 0, 1e12, 0, 0)


def write_image(path, payloads, base):
    content = msgspec.msgpack.encode(payloads)
    with path.open("w+b") as file:
        file.write(content)
        digests = digest_content(file, len(content), lambda done, total: None)
        header = ImageHeader(
            vendor="sqlite",
            cluster="raftlog",
            cluster_id="",
            base=base,
            tables_version=1,
            raftlog="0",
            server="",
            created_at=0,
            rows={"rows": len(payloads)},
            attachments=[],
            database_bytes=len(content),
            content_bytes=len(content),
            digest=digest_of(digests),
        )
        seal(file, digests, header)
    return header


class ImageMachine(RecordingMachine):
    """Its database is a list of payloads: it can be lost, and become what an image holds."""

    def __init__(self):
        super().__init__()
        self.last_error = ""
        self.sessions = Sessions()
        self.last_term = 0
        self.is_lost = False
        self.installed = []
        self.lock = threading.Lock()

    def apply(self, batch):
        if self.is_lost:
            raise DatabaseReplaced("it is gone")
        with self.lock:
            outcomes = super().apply(batch)
            self.last_term = batch.last_term
            return outcomes

    def look_around(self):
        if self.is_lost:
            raise DatabaseReplaced("it is gone")

    def reopen(self):
        self.is_lost = False
        self.applied, self.last_applied = [], 0

    def caught_up(self):
        """Nobody waits for it."""

    def make_durable(self):
        return self.last_applied

    def make_image(self, path, describe, *, on_progress):
        with self.lock:
            payloads, index, term = list(self.applied), self.last_applied, self.last_term
        header = write_image(path, payloads, describe(index, term))
        on_progress(1, 1)
        return header

    def install(self, path, *, on_progress):
        header = read_header(path)
        self.applied = msgspec.msgpack.decode(path.read_bytes()[: header.content_bytes], type=list[bytes])
        self.last_applied, self.last_term = header.index, header.term
        self.installed.append(header.index)
        on_progress(1, 1)
        return header


class SnapshotCluster(runtime.Cluster):
    """Each node serves and pulls images, and compacts its log when compact() is called."""

    def __init__(self, count, folder):
        super().__init__(count)
        self.folder = folder
        self.image_servers = {}
        self.pullers = {}
        self.compactors = {}
        self.tallies = {}
        # Called before each request with (asker, peer, name, arguments); what it raises is what the asker gets.
        self.before_request = lambda asker, peer, name, arguments: None
        # (asker, peer) of each chunk that was given, and its offset.
        self.chunks = []

    def make_machine(self, node_id):
        return self.machines.get(node_id) or ImageMachine()

    def make(self, node_id):
        super().make(node_id)
        service, machine = self.servers[node_id], self.machines[node_id]
        state, folder = service.state, self.folder / node_id
        tally = self.tallies[node_id] = Tally()
        service.care = healing = Healing(machine, state.raft, lambda: None, tally)
        server = ImageServer(
            folder / "images",
            machine.make_image,
            lambda index, term: snapshots.describe(state, index, term),
            lambda: 0,
            tally,
        )
        puller = Puller(state, healing, self.asker(node_id), folder / "incoming", 1 << 30, tally)
        self.image_servers[node_id], self.pullers[node_id] = server, puller
        self.compactors[node_id] = Compactor(
            state, NOTHING_KEPT, lambda: [LogFile(state.log_store.first_index, 1)], machine.make_durable
        )
        for name, part in (("images", server), ("pull", puller)):
            self.add_thread(service, f"raftlog-{node_id}-{name}", part.main)

    def add_thread(self, service, name, main):
        thread = NodeThread(name, lambda: main(thread.now_doing), service.died)
        service.threads.append(thread)

    def asker(self, asker):
        def ask(peer, name, arguments, timeout):
            self.before_request(asker, peer, name, arguments)
            server = self.image_servers.get(peer)
            if server is None:
                raise NodeUnavailable(f"{peer} is down")
            try:
                answer = server.requests()[name](arguments)
            except RaftlogError as error:
                raise RequestFailed(type(error).__name__, str(error)) from error
            if name == "snapshot_read":
                self.chunks.append((asker, peer, arguments["offset"]))
            return answer

        return ask

    def stop(self, node_id):
        """Its process ends; what is in its log, its database and its folder stays."""
        server = self.servers.pop(node_id)
        self.pullers[node_id].stop()
        self.image_servers.pop(node_id).stop()
        assert server.stop(20) == []
        self.network.crash(node_id)

    def start(self, node_id):
        self.make(node_id)
        self.servers[node_id].start()

    def __exit__(self, *exc_info):
        for part in (*self.pullers.values(), *self.image_servers.values()):
            part.stop()
        super().__exit__(*exc_info)

    # What tests do

    def write(self, count):
        leader = self.leader()
        self.propose(leader, self.payloads(count))

    def compact(self, *node_ids):
        for node_id in node_ids:
            assert self.compactors[node_id].look() > 0

    def wait_equal(self):
        def reached():
            index = max(self.raft(node_id).commit_index for node_id in self.servers)
            machines = [self.machines[node_id] for node_id in self.servers]
            return all(machine.last_applied == index for machine in machines) and machines

        machines = self.wait(reached, "all have applied what is committed")
        assert all(machine.applied == machines[0].applied for machine in machines)
