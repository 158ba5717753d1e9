"""Assembly: the settings become a Node. The only module that knows every layer."""

from __future__ import annotations

import logging
import os
import queue
import random
import ssl
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from django.db import connections

import raftlog
from raftlog import signals
from raftlog.asking import client_tls
from raftlog.comparison import Comparison
from raftlog.conf import Settings
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.events import (
    ConfigurationChanged,
    Event,
    RecoveryEnded,
    RemovedFromCluster,
)
from raftlog.consensus.log import RaftLog
from raftlog.consensus.raft import Raft
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import Role
from raftlog.digests import Digests
from raftlog.disaster.adopting import data_of_this_host_alone
from raftlog.disaster.backups import DESCRIBE_ENTRY, describer
from raftlog.disaster.keeper import Keeper, make_keeper
from raftlog.exceptions import DiskFull, StorageFailed, TransportError
from raftlog.log_fields import log_fields
from raftlog.node_events import leader_after
from raftlog.observing.node_side import Observing
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.divergence import Divergence
from raftlog.replication.position import check_position
from raftlog.replication.registry import autodiscover, registry
from raftlog.runtime import clock
from raftlog.runtime.abilities import IDEMPOTENCY_KEYS, Abilities
from raftlog.runtime.applied import AppliedWaiters
from raftlog.runtime.loading import load_log
from raftlog.runtime.log_only import LogOnlyStateMachine
from raftlog.runtime.ports import ChannelFactory, OnClose, OnMessage, Outcome, PeerChannel, StateMachine
from raftlog.runtime.scrubber import Scrubber
from raftlog.runtime.server import RaftServer
from raftlog.snapshots.assembly import Snapshots
from raftlog.storage import Storage, open_storage
from raftlog.storage.members import MemberCommands, load_members, save_members
from raftlog.storage.verify import Finding
from raftlog.transport.handshake import Identity, RemoteHello
from raftlog.transport.peer_channel import channel_factory
from raftlog.transport.peer_requests import PeerRequests

logger = logging.getLogger("raftlog.node")

STOP_TIMEOUT = 10.0  # seconds
PRIORITY_CALM = 10  # election timeouts: see RaftSettings.priority_calm
COMMIT_DELAY = 0.005  # seconds: see RaftSettings.commit_delay
MESSAGE_OVERHEAD = 4 << 20  # bytes


class Node:
    """One server of the cluster: storage, core, threads, wire, database. start() once, stop() once.

    Args:
        settings: of this node.
        state_machine: instead of the one that the settings name.
        channel_factory: instead of WebSockets to the members' addresses.
        keeps_backups: make backups and archive entries as the settings say; for the process that stays.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        state_machine: StateMachine | None = None,
        channel_factory: ChannelFactory | None = None,
        keeps_backups: bool = False,
    ) -> None:
        self.settings = settings
        self.service: RaftServer
        self.applied = AppliedWaiters()
        self.identity: Identity
        # None: what is applied is kept nowhere.
        self.comparison: Comparison | None = None
        # What an image of the database is described by: index -> LogBase.
        self.describe: Callable[[int], LogBase]
        self._keeps_backups = keeps_backups
        self._keeper: Keeper | None = None
        self.snapshots: Snapshots | None = None
        self._requests = PeerRequests(self._address_of, settings.secret_keys, settings.cluster, self._client_tls)
        self._machine = state_machine
        self._channel_factory = channel_factory
        self._storage: Storage
        # One thread at a time replaces the folder's metadata.
        self._writing_metadata = threading.Lock()
        self.scrubber: Scrubber | None = None
        self._started_at = clock.monotonic()
        # Set once this node knows that it is no member any more: the process ends.
        self.removed = threading.Event()
        self.digests: Digests | None = None
        # None: what is applied has no commands of its own.
        self.abilities: Abilities | None = None
        self.observing = Observing(settings.node_id)
        self._events: queue.SimpleQueue[Event | MemberCommands | None] = queue.SimpleQueue()
        self._event_thread = threading.Thread(
            target=self._send_signals, name=f"raftlog-{settings.node_id}-events", daemon=True
        )

    def start(self, refuse: Callable[[Raft], None] = lambda raft: None) -> None:
        """Open the folder, check that folder and database belong together, start the threads.

        `refuse` may raise against what the folder holds, before anything is started. Raises that, StorageError
        (DirectoryInUse, IdentityMismatch, LogDamaged, …); then it may be called again.
        """
        settings = self.settings
        self._storage = open_storage(
            settings.data_dir,
            node_id=settings.node_id,
            cluster=settings.cluster,
            new_incarnation=uuid.uuid4().hex,
            segment_bytes=settings.segment_bytes,
        )
        try:
            self.service = self._assemble(self._storage)
            refuse(self.service.state.raft)
        except BaseException:
            self._storage.close()
            raise
        self._event_thread.start()
        self.service.start()
        if settings.scrub_bytes_per_second:
            self.scrubber = Scrubber(
                self._storage.filesystem,
                self._storage.directory,
                settings.node_id,
                settings.scrub_bytes_per_second,
                self._has_damage,
                self.service.died,
            )
            self.scrubber.start()
        if self.comparison is not None:
            self.comparison.start()
        if self._keeper is not None:
            self._keeper.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Hand leadership over, answer the waiting callers, end all threads, close the folder."""
        if self.comparison is not None:
            self.comparison.ask_to_stop()
        for helper in (self.scrubber, self._keeper):
            if helper is not None:
                helper.ask_to_stop()
        if self.digests is not None:
            self.digests.stop()
        if self.snapshots is not None:
            self.snapshots.ask_to_stop()
            self._requests.close()  # so that nobody waits for an answer
        unfinished = self.service.stop(timeout)
        for helper in (self.scrubber, self._keeper):
            if helper is not None:
                unfinished += helper.join(timeout)
        if self.comparison is not None:
            unfinished += self.comparison.join(timeout)
            self._requests.close()
        if unfinished:
            logger.error(
                "these threads did not end within %g s: %s",
                *(timeout, ", ".join(unfinished)),
                extra=log_fields("threads_left", about=", ".join(unfinished)),
            )
        self._events.put(None)
        self._event_thread.join(timeout)
        self._storage.close()

    @property
    def failed(self) -> threading.Event:
        """Set when a thread died; `failure` says which and why. The process must end."""
        return self.service.failed

    @property
    def failure(self) -> str:
        return self.service.failure

    def status(self) -> dict[str, Any]:
        status = self.service.status()
        if self.comparison is not None:
            compared = self.comparison.status()
            status["problems"] += compared.pop("problems")
            status["warnings"] += compared.pop("warnings")
            status["healthy"] = not status["problems"]
            status |= compared
        if self.scrubber is not None:
            status["scrub"] = self.scrubber.status()
            scrub = self.scrubber.thread
            status["threads"][scrub.name] = {
                "doing": scrub.doing,
                "seconds": round(clock.monotonic() - scrub.since, 3),
            }
        if self._keeper is not None:
            kept = self._keeper.status()
            status["warnings"] += kept.pop("warnings")
            status |= kept
        if self.snapshots is not None:
            status["snapshots"] = self.snapshots.status()
            status["warnings"] += filter(None, [self.snapshots.puller.words()])
        return {
            **status,
            "cluster": self.settings.cluster,
            "version": raftlog.__version__,
            "pid": os.getpid(),
            "uptime": round(clock.monotonic() - self._started_at, 3),
            "address": self.settings.address,
        }

    def requests(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """What peers may ask, by name."""
        describe = {DESCRIBE_ENTRY: lambda arguments: msgspec.to_builtins(self.describe(int(arguments["index"])))}
        if self.comparison is None or self.digests is None:
            return describe
        images = self.snapshots.requests() if self.snapshots is not None else {}
        return describe | self.comparison.answers() | self.digests.requests() | images

    def _assemble(self, storage: Storage) -> RaftServer:
        settings = self.settings
        if storage.torn_tail:
            logger.warning(
                "%s: %s",
                *(settings.node_id, storage.torn_tail),
                extra=log_fields("torn_tail", node=settings.node_id, reason=storage.torn_tail),
            )
        log = load_log(storage.log)
        machine = self._machine or make_state_machine(settings, self.is_leader)
        is_recovering = storage.recovery_id != 0
        check_position(machine, log, storage.metadata.cluster_id, may_be_ahead=is_recovering)
        alone = data_of_this_host_alone(settings.database) if log.is_empty else ""
        if alone and self._machine is None and settings.state_machine == "database":
            logger.warning(
                "%s: %s",
                *(settings.node_id, alone),
                extra=log_fields("database_alone", node=settings.node_id, reason=alone),
            )
        rng = random.Random(uuid.uuid4().int)
        raft = Raft(
            node_id=settings.node_id,
            incarnation=storage.metadata.incarnation,
            settings=raft_settings(settings),
            log=log,
            hard_state=storage.hard_state.load(),
            rng=rng,
            now=clock.monotonic(),
            first_members=first_members(settings) if settings.node_id in settings.members else None,
            new_cluster_id=uuid.uuid4().hex,
            last_applied=min(machine.last_applied, log.last_index) if is_recovering else machine.last_applied,
            recovery_id=storage.recovery_id,
        )
        self.identity = Identity(
            settings.node_id,
            settings.cluster,
            settings.secret_keys,
            cluster_id=lambda: storage.metadata.cluster_id,
            incarnation=storage.metadata.incarnation,
            address=settings.address,
            commands=known_commands(),
            vendor=vendor_of(settings),
        )
        database = machine if isinstance(machine, DatabaseStateMachine) else None
        service = RaftServer(
            raft,
            storage.log,
            storage.hard_state,
            machine,
            self._channel_factory or self._websockets,
            election_timeout=settings.election_timeout,
            max_waiting_proposals=settings.max_waiting_proposals,
            max_payload_bytes=settings.max_transaction_bytes,
            peers=first_peers(settings, log),
            rng=rng,
            on_event=self._events.put,
            on_applied=self._on_applied,
        )
        self.describe = describer(service.state, storage.log)
        if self._keeps_backups:
            self._keeper = make_keeper(settings, service, storage.log, self.describe, service.died)
        if database is not None:
            database.on_unknown_entry = service.withdraw
            self.observing.count_sessions = lambda: len(database.sessions.committed)
            remembered = load_members(storage.filesystem, storage.directory)
            self.abilities = service.state.proposals.abilities = Abilities(
                raft, service.state.monitor, self.identity.commands, remembered, self._events.put
            )
            self.comparison = Comparison(service, database, self._requests.ask, self._has_diverged, service.died)
            self.digests = Digests(
                self.comparison.open_reader, service.state.pins, database.watch, lambda: service.state.withdrawn
            )
            self.snapshots = Snapshots(settings, storage, service, database, self._requests.ask)
            if self._keeper is not None:
                self.snapshots.compactor.floors.append(self._keeper.log_must_keep_after)
        return service

    def _has_diverged(self, divergence: Divergence) -> None:
        signals.send_logged(signals.divergence_found, logger, sender=self, divergence=divergence)

    def _has_damage(self, finding: Finding) -> None:
        logger.error(
            "%s: damage in the log: %s. Stop this node, and run `manage.py raft repair`",
            self.settings.node_id,
            finding,
            extra=log_fields("damage_found", node=self.settings.node_id, reason=str(finding)),
        )
        self.service.state.note_damage(str(finding))
        signals.send_logged(signals.damage_found, logger, sender=self, finding=finding)

    def _finish_repair(self) -> None:
        """What this node's disk had lost is there again: write that down, and vote."""
        try:
            with self._writing_metadata:
                self._storage.finish_repair()
        except DiskFull as error:
            logger.warning(
                "the folder does not say yet that its repair is over, which is tried again: %s",
                error,
                extra=log_fields("write_postponed", about="end of the repair", reason=str(error)),
            )
            clock.sleep(1)
            self._events.put(RecoveryEnded(0, 0))
            return
        except StorageFailed as error:
            self.service.died(self._event_thread.name, error)
            return
        self.service.state.recovery_saved()
        logger.info(
            "%s votes and counts again: its log is repaired",
            self.settings.node_id,
            extra=log_fields("repair_ended", node=self.settings.node_id),
        )

    def _websockets(self, peer_id: str, on_message: OnMessage, on_close: OnClose) -> PeerChannel:
        factory = channel_factory(
            self.identity,
            self._address_of,
            ssl_context=self._client_tls(),
            max_message_bytes=max_message_bytes(self.settings),
            on_hello=self.hear,
            on_refused=partial(self.observing.refusals.record, is_frame=True),
        )
        return factory(peer_id, on_message, on_close)

    def hear(self, remote: RemoteHello) -> None:
        """A peer has said of itself what it is."""
        if self.abilities is not None:
            self.abilities.hear(remote.node_id, remote.commands)

    def _client_tls(self) -> ssl.SSLContext | None:
        return client_tls(self.settings) if self.settings.uses_tls else None

    def _address_of(self, peer_id: str) -> str:
        server = self.service.state.raft.configuration.servers.get(peer_id)
        address = server.address if server is not None else self.settings.members.get(peer_id, "")
        if not address:
            raise TransportError(f"no address of {peer_id} is known")
        return address

    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows. Any thread."""
        return self.service.state.raft.role is Role.LEADER

    def _send_signals(self) -> None:
        """Body of the event thread, out of every other one's way: what the core tells becomes Django signals."""
        leader = ("", 0)
        while (event := self._events.get()) is not None:
            if isinstance(event, dict):
                self._remember_members(event)
                continue
            self.observing.happened(event)
            if isinstance(event, RemovedFromCluster):
                self.removed.set()
            if isinstance(event, RecoveryEnded):
                self._finish_repair()
            if isinstance(event, ConfigurationChanged):
                signals.send_logged(
                    signals.membership_changed,
                    logger,
                    sender=self,
                    configuration=event.configuration,
                    index=event.index,
                )
            now = leader_after(event, self.settings.node_id)
            if now is not None and now != leader:
                leader = now
                signals.send_logged(signals.leader_changed, logger, sender=self, leader_id=now[0], term=now[1])

    def _remember_members(self, members: MemberCommands) -> None:
        try:
            save_members(self._storage.filesystem, self._storage.directory, members)
        except OSError as error:
            logger.warning(
                "what the members can apply is not kept over a restart: %s",
                error,
                extra=log_fields("write_postponed", about="members", reason=str(error)),
            )

    def _on_applied(self, index: int, outcomes: list[Outcome]) -> None:
        """Entries up to `index` are in the database: tell who waits for them, and who watches."""
        self.applied.applied(index)
        self.observing.applied(index, outcomes)
        self._pin_cluster_id(index)

    def _pin_cluster_id(self, applied_index: int) -> None:
        """Write the cluster's id into the folder once an entry that has this folder as a member is applied.

        Entries before that may be of another cluster, which this one was recovered or restored from.
        """
        metadata = self._storage.metadata
        if not metadata.cluster_id:
            raft = self.service.state.raft
            configuration = raft.configuration
            server = configuration.servers.get(self.settings.node_id)
            is_member = server is not None and server.incarnation == metadata.incarnation
            if configuration.cluster_id and is_member and raft.configuration_index <= applied_index:
                try:
                    with self._writing_metadata:
                        self._storage.set_cluster_id(configuration.cluster_id)
                except DiskFull as error:
                    logger.warning(
                        "the cluster id is not in the folder yet, the next batch tries again: %s",
                        error,
                        extra=log_fields("write_postponed", about="cluster id", reason=str(error)),
                    )


# Pieces


def raft_settings(settings: Settings) -> RaftSettings:
    return RaftSettings(
        election_timeout=settings.election_timeout,
        heartbeat_interval=settings.heartbeat_interval,
        priority_calm=PRIORITY_CALM * settings.election_timeout,
        commit_delay=min(COMMIT_DELAY, settings.heartbeat_interval),
        max_uncommitted_bytes=settings.max_uncommitted_bytes,
        read_lease=settings.read_lease,
    )


def first_members(settings: Settings) -> Configuration:
    """The configuration in which an empty node may take part in the first election (rule 4 of the design)."""
    servers = {node_id: Server(address) for node_id, address in settings.members.items()}
    return Configuration("", servers, tuple(sorted(servers)))


def first_peers(settings: Settings, log: RaftLog) -> list[str]:
    """Whom to talk with before a configuration is known; a node that waits to be taken in lets the others begin."""
    if log.configurations or settings.node_id not in settings.members:
        return []
    return [node_id for node_id in settings.members if node_id != settings.node_id]


def max_message_bytes(settings: Settings) -> int:
    """The largest message on the wire: the largest entry, or an append of many small ones, and what is around it."""
    return settings.max_transaction_bytes + MESSAGE_OVERHEAD


def make_state_machine(settings: Settings, is_leader: Callable[[], bool]) -> StateMachine:
    if settings.state_machine == "log":
        return LogOnlyStateMachine()
    return DatabaseStateMachine(settings.database, is_leader=is_leader)


def vendor_of(settings: Settings) -> str:
    """What applies the log: all nodes of a cluster use one. Rows of one vendor mean nothing to another."""
    return connections[settings.database].vendor if settings.state_machine == "database" else settings.state_machine


def known_commands() -> dict[str, list[int]]:
    """What this node can apply: name -> versions, for the hello."""
    autodiscover()
    commands: dict[str, list[int]] = {}
    for name, version in [*registry.known(), IDEMPOTENCY_KEYS]:
        commands.setdefault(name, []).append(version)
    return commands
