"""A leader's view of one follower (paper §5.3: nextIndex, matchIndex; pipelining: dissertation §10.2.1).

           success up to next_index - 1
PROBE ------------------------------------> REPLICATE
  ^   one message at a time, next_index       |   pipelined: next_index runs ahead of match_index,
  |   moves back at each refusal              |   within a window of messages and bytes
  +-------------------------------------------+
    refused, lost (retry deadline passed, or a later heartbeat shows it), connection reset

Either one ----> SNAPSHOT   next_index is below what the leader's log holds: offers instead of entries
SNAPSHOT ------> PROBE      the follower's log has the entry before those that the leader holds
"""

from __future__ import annotations

import enum
from collections import deque
from typing import NamedTuple

from raftlog.consensus.snapshot import Transfer

MAX_RETRY_DOUBLINGS = 6
ROUND_TRIP_GAIN = 1 / 8  # the weight of the newest, as in RFC 6298


class ProgressState(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflight(NamedTuple):
    """A message with entries that was sent and not acknowledged."""

    last_index: int
    size: int
    round: int


class Progress:
    """Invariant: match_index < next_index; nothing in flight ends below match_index."""

    __slots__ = (
        "acked_at",
        "acked_round",
        "applied_index",
        "awaited_index",
        "catch_up_began_at",
        "catch_up_index",
        "inflight",
        "inflight_bytes",
        "is_caught_up",
        "last_log_index",
        "last_sent_at",
        "lease_until",
        "match_index",
        "may_lead",
        "moved_at",
        "next_index",
        "ready_since",
        "recovery_id",
        "recovery_index",
        "recovery_round",
        "retry_at",
        "retry_doublings",
        "round_trip",
        "sent_commit",
        "sent_round",
        "snapshot_index",
        "state",
        "timed_at",
        "timed_round",
        "transfer",
        "transfers_given_up",
        "waiting_since",
    )

    def __init__(self, next_index: int, now: float) -> None:
        self.state = ProgressState.PROBE
        # Highest index known to be durable there and to agree with this log. Changes: on_success(). Decreases only
        # where the follower has lost what it had (forget_match).
        self.match_index = 0
        # The next entry to send.
        self.next_index = next_index
        # Sent, not acknowledged, oldest first. In PROBE at most one.
        self.inflight: deque[Inflight] = deque()
        self.inflight_bytes = 0
        # When what is in flight counts as lost; inf while nothing is.
        self.retry_at = float("inf")
        # When the oldest of it was sent, or something was last acknowledged.
        self.waiting_since = now
        # Each loss without progress in between doubles the wait, so that something large and slow gets its time.
        self.retry_doublings = 0
        # When any AppendEntries was last sent (the heartbeat timer).
        self.last_sent_at = float("-inf")
        # Highest leader_commit, round sent.
        self.sent_commit = 0
        self.sent_round = 0
        # Index up to which callers on that follower wait to see the commit (Raft.expect_commit).
        self.awaited_index = 0
        # Newest round acknowledged, and when that round began: what check-quorum counts.
        self.acked_round = 0
        self.acked_at = now
        # How long an answer takes, smoothed, in seconds; None: none was timed. Of one message at a time, the first of
        # its round: that round (0: none is timed), and when it was made.
        self.round_trip: float | None = None
        self.timed_round = 0
        self.timed_at = 0.0
        # Until when it lets nobody else be elected (leases.py), by this leader's clock.
        self.lease_until = float("-inf")
        # A learner that is to vote catches up in rounds (membership.py): up to which index the present one goes (0:
        # none has begun), when it began, whether the last was short enough; and when match_index last rose.
        self.catch_up_index = 0
        self.catch_up_began_at = now
        self.is_caught_up = False
        self.moved_at = now
        # The recovery that the follower is in (recovery.py; 0: none), its barrier, and the round that began when it was
        # noticed. Invariant: while it is not 0, nothing that this follower acknowledges counts.
        self.recovery_id = 0
        self.recovery_index = 0
        self.recovery_round = 0
        # In SNAPSHOT: the least index that an image must have. The leader's log is held from there on, and from
        # match_index on once that is higher, until the follower has caught up. 0: nothing is held for it.
        self.snapshot_index = 0
        # How far the pulling is, as the follower last told.
        self.transfer = Transfer()
        # As the follower last told.
        self.last_log_index = 0
        self.applied_index = 0
        # Whether it would lead, as it last told; since when it has been ready to, as far as looked (priority.py); how
        # many transfers to it came to nothing.
        self.may_lead = True
        self.ready_since = now
        self.transfers_given_up = 0

    def on_sent(self, round_: int, now: float) -> None:
        """A message of heartbeat round `round_` is about to leave."""
        # A round may be shorter than the way: what is timed stays so until it is answered.
        if not self.timed_round and round_ > self.sent_round:
            self.timed_round, self.timed_at = round_, now
        self.last_sent_at = now
        self.sent_round = round_

    def time_answer(self, round_: int, now: float) -> None:
        """An answer to a message of round `round_` came. Answers come in order, so a later one will do."""
        if self.timed_round and round_ >= self.timed_round:
            self.timed_round = 0
            took = now - self.timed_at
            smoothed = self.round_trip
            self.round_trip = took if smoothed is None else smoothed + ROUND_TRIP_GAIN * (took - smoothed)

    def has_room(self, max_messages: int, max_bytes: int) -> bool:
        """Whether another message with entries may go out."""
        if self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE:
            return not self.inflight
        return len(self.inflight) < max_messages and self.inflight_bytes < max_bytes

    def on_sent_entries(self, last_index: int, size: int, round_: int, now: float, retry_interval: float) -> None:
        if not self.inflight:
            self._arm_retry(now, retry_interval)
        self.inflight.append(Inflight(last_index, size, round_))
        self.inflight_bytes += size
        if self.state is ProgressState.REPLICATE:
            self.next_index = last_index + 1

    def on_success(self, match_index: int, now: float, retry_interval: float) -> bool:
        """The follower agrees up to `match_index`, durably. Returns whether match_index rose."""
        rose = match_index > self.match_index
        if rose:
            self.match_index = match_index
            self.moved_at = now
            self.retry_doublings = 0
            while self.inflight and self.inflight[0].last_index <= match_index:
                self.inflight_bytes -= self.inflight.popleft().size
            self.retry_at = float("inf")
            if self.inflight:
                self._arm_retry(now, retry_interval)
        if self.state is ProgressState.PROBE and match_index >= self.next_index - 1:
            self.state = ProgressState.REPLICATE
            self.next_index = match_index + 1
            self._forget_inflight()
        self.next_index = max(self.next_index, self.match_index + 1)
        return rose

    def on_refused(self, prev_log_index: int, next_index: int, base_index: int = 0) -> bool:
        """The follower does not have `prev_log_index`; `next_index` is the hint. Returns whether it was news.

        base_index: of the leader's log, whose heartbeats begin there where match_index is below it: in a pipeline,
        they may have overtaken the entries that lead there.
        """
        if self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE:
            if prev_log_index != self.next_index - 1:
                return False
        elif prev_log_index <= max(self.match_index, base_index):
            return False
        self.become_probe()
        self.next_index = max(self.match_index + 1, min(next_index, prev_log_index))
        return True

    def become_probe(self) -> None:
        """Begin again after what is known to agree; whatever is in flight is forgotten."""
        self.state = ProgressState.PROBE
        self.next_index = self.match_index + 1
        self.transfer = Transfer()
        self._forget_inflight()

    def forget_match(self, next_index: int) -> None:
        """The follower has lost entries that it had acknowledged: find out anew what it has, from `next_index` back."""
        self.match_index = self.sent_commit = 0
        self.become_probe()
        self.next_index = next_index

    def become_snapshot(self, snapshot_index: int, now: float) -> None:
        """The follower needs entries that are gone: it is offered an image that holds at least `snapshot_index`."""
        self.become_probe()
        self.state = ProgressState.SNAPSHOT
        self.snapshot_index = snapshot_index
        self.moved_at = now

    def on_transfer(self, transfer: Transfer, now: float) -> None:
        """The follower told how far the pulling is. A pulling that gets on is progress."""
        if transfer != self.transfer:
            self.transfer = transfer
            self.moved_at = now

    def on_retry_deadline(self) -> None:
        """What is in flight was not acknowledged for too long."""
        self.retry_doublings = min(self.retry_doublings + 1, MAX_RETRY_DOUBLINGS)
        self.on_lost()

    def on_lost(self) -> None:
        """What is in flight got lost. A probe is repeated, a pipeline begins again after match_index."""
        if self.state is ProgressState.REPLICATE:
            self.become_probe()
        elif self.state is ProgressState.PROBE:
            self._forget_inflight()

    def on_connection_reset(self) -> None:
        """Nothing that was sent counts as sent; the next message is due at once."""
        self.retry_doublings = 0
        self.timed_round = 0
        self.last_sent_at = float("-inf")
        self.sent_commit = 0
        self.on_lost()

    def lost_what_was_in_flight(
        self, round_: int, last_log_index: int, max_bytes: int, now: float, retry_interval: float
    ) -> bool:
        """Whether an answer to heartbeat round `round_`, which began after the entries were sent, shows their loss.

        It does where the follower's log, now ending at `last_log_index`, does not reach them. Where it does, it may
        still wait for its disk, or hold another leader's entries there: then a probe gets one round more, and a
        pipeline the retry interval. Messages over max_bytes travel in chunks, which heartbeats overtake: for them
        only the retry deadline counts.
        """
        if not self.inflight or round_ <= self.inflight[-1].round:
            return False
        if any(message.size > max_bytes for message in self.inflight):
            return False
        if last_log_index < self.inflight[-1].last_index:
            return True
        if self.state is ProgressState.PROBE and round_ > self.inflight[-1].round + 1:
            return True
        return now >= self.waiting_since + retry_interval

    def begin_catching_up(self, now: float) -> None:
        """From now on it is to become a voter."""
        self.catch_up_index = 0
        self.is_caught_up = False
        self.moved_at = now

    def begin_catch_up_round(self, last_index: int, now: float) -> None:
        self.catch_up_index = last_index
        self.catch_up_began_at = now

    def _arm_retry(self, now: float, retry_interval: float) -> None:
        self.waiting_since = now
        self.retry_at = now + retry_interval * (1 << self.retry_doublings)

    def _forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0
        self.retry_at = float("inf")
