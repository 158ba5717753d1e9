"""What raftlog's log records carry for those who search them: the names, in one place, so that they stay the same.

    logger.warning("refused %s: …", client, extra=log_fields("connection_refused", peer=client, code=code))

Each becomes an attribute of the record with PREFIX before it (`record.raftlog_event`, `record.raftlog_peer`): a record
factory or filter of the project may set attributes of its own, and logging raises where one is set twice.
docs/reference/logs.md lists them all. No logging here: a record is whoever calls the logger's.
"""

from __future__ import annotations

from typing import Final, TypedDict, Unpack

PREFIX: Final = "raftlog_"


class Fields(TypedDict, total=False):
    """What a record may carry beside its event. FIELDS says what each means."""

    node: str
    term: int
    index: int
    peer: str
    about: str
    reason: str
    code: int
    bytes: int
    seconds: float


FIELDS: Final = {
    "event": "what happened: a name of the table below; every warning, error and critical record has it",
    "node": "id of the node whose process says so",
    "term": "Raft's term at that moment",
    "index": "the entry of the log that it is about, inclusive; where a stretch is meant, its first",
    "peer": "the other side: a node's id, or an address where it is not known (yet) whose",
    "about": "name of the thing: a thread, service, lock, job, command, counter, receiver",
    "reason": "why, in words; of an error what it says",
    "code": "close code of the WebSocket",
    "bytes": "size",
    "seconds": "how long it took",
}

# Name -> what happened. Those of the first part are Raft's own (consensus/events.py).
EVENTS: Final = {
    "became_follower": "role changed",
    "became_pre_candidate": "role changed: the leader is not heard, others are asked whether they hear it",
    "became_candidate": "role changed: an election begins",
    "became_leader": "role changed: won the election",
    "leader_found": "a follower learned who leads (`peer`)",
    "election_lost": "an election or pre-vote ended without a majority",
    "stepped_down": "a leader does not lead any more",
    "vote_granted": "voted for `peer`",
    "log_truncated": "a follower removed entries, from `index` on, that its leader does not have",
    "recovery_began": "`peer` repairs its log, and does not count until it has `index`",
    "recovery_ended": "this node has all that its disk had lost",
    "configuration_changed": "the members changed, by the entry at `index`",
    "incarnation_mismatch": "the folder of `peer` was emptied or exchanged: it does not count",
    "transfer_started": "leadership is handed over to `peer`",
    "transfer_abandoned": "`peer` has not taken it",
    "change_abandoned": "a change of the members is given up; `peer` were to become voters",
    "member_left": "`peer` was removed",
    "removed_from_cluster": "this node was removed, by the entry at `index`",
    "snapshot_offered": "`peer` needs entries from `index` on, which the leader's log does not have any more",
    "snapshot_needed": "this node needs an image of the database that holds entry `index`",
    "snapshot_restored": "the log goes on after an image, from `index`",
    "connection_refused": "a connection was closed with `code`; at most one record in 10 s for each code",
    "peer_connected": "this node's connection to `peer` stands",
    "peer_lost": "it ended",
    "peer_unreachable": "it cannot be made; once for each `reason`",
    "message_dropped": "`peer` sent what no correct server sends",
    "request_failed": "a request of `peer` was answered with an error that nobody expected",
    "send_failed": "`peer` could not be sent anything, and its connection was closed",
    "callback_failed": "a caller's own code raised when it was told of an answer",
    "listening": "the node takes connections, at `about`",
    "torn_tail": "an unfinished write at the log's end was cut at the start: it had never been acknowledged",
    "start_refused": "the node did not start: its folder is of another node or damaged, or the database does not fit",
    "damage_found": "the log on disk is damaged, and has to be repaired",
    "repair_ended": "the log is repaired: the node votes and counts again",
    "disk_stalled": "a write takes longer than an election timeout: the node does not lead meanwhile",
    "disk_answers": "it does not any more",
    "disk_full": "the node takes no entries until there is room",
    "disk_has_room": "it does again",
    "write_postponed": "something could not be written to the node's folder yet (`about`), which is tried again",
    "log_compacted": "the log begins after `index` now",
    "compaction_failed": "the log could not be compacted, which is tried again",
    "image_made": "an image of the database at `index` was made for peers",
    "image_removed": "nobody reads it any more",
    "image_pulling": "this node pulls an image of `bytes` from `peer`",
    "image_failed": "an image could not be made, pulled or installed, which is tried again",
    "image_useless": "what was pulled was given up: it is not what is needed any more",
    "image_installed": "the database is that image now",
    "database_behind": "the database has gone back to `index`, and is brought up to date",
    "database_alone": "the database has rows that the cluster's log does not have",
    "apply_failed": "entries cannot be applied just now; tried again, or the node stops",
    "apply_resumed": "they are again, up to `index`",
    "apply_held_up": "another process holds the database's lock, or the host's write turn",
    "divergence_found": "the database of this node, or of `peer`, differs from the majority's, since `index`",
    "scan_failed": "rows could not be read for a comparison, which is tried again",
    "digest_failed": "a comparison of all rows that somebody asked for failed",
    "thread_died": "a thread ended with an error (`about`); a node's thread takes the node down",
    "threads_left": "threads or services did not end in time (`about`)",
    "node_stopped": "the node has ended by itself: `reason`",
    "service_failed": "a service of the node failed (`about`), and is started again",
    "receiver_failed": "the project's own code raised: a signal's receiver, a hook or a callback (`about`)",
    "live_off": "admin pages are not updated by themselves",
    "history_incomplete": "the admin's history lacks how an action went",
    "feed_ended": "a process tells no more changes",
    "database_unusable": "a battery or feed cannot use its database or the log, and tries again",
    "response_not_recorded": "a response under an idempotency key (`about`) is not kept, or could not be given",
    "backup_made": "a backup that ends at `index`",
    "backup_failed": "a backup or the archive (`about`) failed, which is tried again",
    "archive_gap": "entries from `index` on were compacted before they were archived",
    "cache_not_written": "of the cache `about`, after a commit",
    "counter_not_counted": "changes of counters are lost, or it is not known whether",
    "counter_delayed": "changes of counters wait for the log",
    "leadership_won": "this process leads `about` (an election of `raftlog.contrib.leader`)",
    "leadership_lost": "it does not any more",
    "lock_lost": "the lock `about` is not held any more",
    "command_failed": "a battery's command (`about`) failed on every node alike, or was given up",
    "command_retried": "it is tried again",
    "job_failed": "the job `about` of the schedule failed",
}


def log_fields(event: str, **fields: Unpack[Fields]) -> dict[str, object]:
    """For `extra=` of a logger's method. Any thread. `event`: a name of EVENTS."""
    return {f"{PREFIX}event": event} | {f"{PREFIX}{name}": value for name, value in fields.items()}
