"""Callers waiting for their proposals, and the way of a proposal to whoever leads.

A proposal is *placed* with a leader: appended here, or forwarded to the peer that leads. It is placed
again whenever the leader or its term changes, the connection is lost, or the leader refuses; that is
safe because entries carry (session, sequence) and repeats are recognised when they are applied
(rule 1 of the design). It ends with the outcome of its application on *this* node, so that the caller
reads its own write here; or at its deadline, with "unknown" where some placement may have put it into
a log, and "not proposed" where none did.

Monitor: held, in every method.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from raftlog.consensus.entries import KEY
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.exceptions import CommandNotSupported, NotLeader, NotNow, Overloaded
from raftlog.runtime.abilities import Abilities
from raftlog.runtime.measures import Histogram
from raftlog.runtime.ports import NOT_PROPOSED, UNKNOWN, ForwardProposals, ForwardResponse, Outcome
from raftlog.runtime.turn_queue import TurnQueue

Done = Callable[[list[Outcome]], None]

MAX_FORWARD_BYTES: Final = 1 << 20  # payload bytes in one ForwardProposals; one larger payload still goes, alone
RETRY_INTERVAL: Final = 0.05  # seconds until a refused proposal is placed again with the same leader
DEADLINES_PER_SECOND: Final = 20  # deadlines are rounded up, so that many callers share one

# Words for what a leader refuses, by the reason in its answer. Nothing was done.
_REFUSALS: Final = {
    "overloaded": "the leader has too much to do",
    "fence": "a schema change has held the cluster's write turn for too long; try again when it is over",
}


def refusal(key: bytes, error: str, text: str) -> Outcome:
    """The outcome "nothing was done", with the name of the exception that the caller raises."""
    return Outcome(key, NOT_PROPOSED, 0, msgspec.msgpack.encode((error, text)))


class Waiter:
    """One proposal that has no outcome yet."""

    __slots__ = ("came_at", "deadline", "done", "doubts", "payload", "placed_term", "placed_with")

    def __init__(self, payload: bytes, deadline: float, done: Done, came_at: float) -> None:
        self.payload = payload
        self.came_at = came_at
        self.deadline = deadline
        self.done = done
        # Where it was placed last ("": nowhere just now), and in which term.
        self.placed_with = ""
        self.placed_term = 0
        # Placements that may have put it into a log: raised by placing, lowered by a refusal that says it did not.
        self.doubts = 0


class Proposals:
    """All proposals of this node's callers."""

    def __init__(
        self, raft: Raft, log_time: Callable[[float], int], max_waiting: int, no_leader_timeout: float
    ) -> None:
        self._raft = raft
        self._log_time = log_time
        self._max_waiting = max_waiting
        self._no_leader_timeout = no_leader_timeout
        self._waiters: dict[bytes, Waiter] = {}
        self._unplaced: list[bytes] = []
        self._retry_at = float("inf")
        self._to_forward: list[bytes] = []
        self._forwarded: dict[int, tuple[str, list[bytes]]] = {}
        self._next_request_id = 1
        # How many waiters have each deadline, and a heap of the deadlines; one without waiters is dropped when met.
        self._waiting_until: dict[float, int] = {}
        self._deadlines: list[float] = []
        self._leaderless_since: float | None = None
        # Why the present leader took nothing when it was last asked; "": it did, or was not.
        self._not_now = ""
        # Whose turn it is, where this server leads: what the turn holds back is not appended yet.
        self.turns = TurnQueue()
        # What the voters can apply; None: nobody asks.
        self.abilities: Abilities | None = None
        # Answers to callers whose proposals were refused while they were placed: take_refused().
        self._refused: list[tuple[Done, list[Outcome]]] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def waiting_keys(self) -> list[bytes]:
        """Of all proposals that have no outcome yet."""
        return list(self._waiters)

    # From callers

    def submit(
        self, payloads: list[bytes], deadline: float, done: Done, now: float
    ) -> list[tuple[Done, list[Outcome]]]:
        """Take proposals of one caller; `done` gets an outcome for each, once. Returns those refused at once."""
        room = max(self._max_waiting - len(self._waiters), 0)
        refused: list[tuple[Done, list[Outcome]]] = []
        if len(payloads) > room:
            text = f"{len(self._waiters)} proposals are waiting on this node, its limit is {self._max_waiting}"
            refused = [(done, [refusal(payload[KEY], "Overloaded", text) for payload in payloads[room:]])]
            payloads = payloads[:room]
        deadline = math.ceil(deadline * DEADLINES_PER_SECOND) / DEADLINES_PER_SECOND
        fresh: list[bytes] = []
        for payload in payloads:
            key = payload[KEY]
            waiting = self._waiters.get(key)
            if waiting is None:
                self._waiters[key] = Waiter(payload, deadline, done, now)
                fresh.append(key)
            else:  # the same caller over a new connection
                waiting.done = done
        if fresh:
            if deadline not in self._waiting_until:
                self._waiting_until[deadline] = 0
                heapq.heappush(self._deadlines, deadline)
            self._waiting_until[deadline] += len(fresh)
            self._place(fresh, now)
        return refused

    def propose_forwarded(self, message: ForwardProposals, now: float) -> ForwardResponse | None:
        """Another node's proposals: append them here if this server leads.

        None: some are held back; the answer comes from move_turns().
        """
        if unsupported := self._unsupported(message.payloads):
            text = next(iter(unsupported.values()))
            return self._forward_response(message.sender, message.request_id, 0, "unsupported", unsupported, text)
        passing, held = self._divide(message.payloads)
        if held and not self.turns.has_room(held):
            return self._forward_response(message.sender, message.request_id, 0, "overloaded")
        response = self._append_forwarded(message.sender, message.request_id, passing, now)
        if not held or response.reason:
            return response
        self.turns.hold(held, message.sender, message.request_id, now)
        return None

    def _unsupported(self, payloads: list[bytes]) -> dict[bytes, str]:
        """Key -> why, of those that some voter could not apply, where this server leads."""
        abilities = self.abilities
        if abilities is None or self._raft.role is not Role.LEADER:
            return {}
        return {payload[KEY]: reason for payload in payloads if (reason := abilities.refusal(payload))}

    def take_refused(self) -> list[tuple[Done, list[Outcome]]]:
        """Callers of this node that are answered since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def _divide(self, payloads: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Those that may be appended now, and those that the write turn holds back."""
        turns = self.turns
        if turns.holder is None or self._raft.role is not Role.LEADER:
            return payloads, []
        held = [payload for payload in payloads if turns.holds_back(payload)]
        return ([payload for payload in payloads if not turns.holds_back(payload)] if held else payloads), held

    def _append_forwarded(self, peer: str, request_id: int, payloads: list[bytes], now: float) -> ForwardResponse:
        raft = self._raft
        first_index, reason, text = 0, "", ""
        if self._unsupported(payloads):  # since they were held back a voter was added: refused when it comes again
            return self._forward_response(peer, request_id, 0, "overloaded")
        try:
            if payloads:
                first_index = raft.propose(payloads, self._log_time(now), now).index
                raft.expect_commit(peer, first_index + len(payloads) - 1)
                self.turns.appended(payloads)
        except NotLeader:
            reason = "not_leader"
        except NotNow as error:
            reason, text = "not_now", str(error)
        except Overloaded:
            reason = "overloaded"
        return self._forward_response(peer, request_id, first_index, reason, text=text)

    def _forward_response(
        self,
        peer: str,
        request_id: int,
        first_index: int,
        reason: str,
        keys: Iterable[bytes] = (),
        text: str = "",
    ) -> ForwardResponse:
        raft = self._raft
        return ForwardResponse(
            raft.current_term, raft.node_id, peer, request_id, first_index, raft.leader_id, reason, list(keys), text
        )

    def move_turns(self, now: float) -> tuple[list[ForwardResponse], list[tuple[Done, list[Outcome]]]]:
        """Refuse what a fence has held back for too long; append what no turn holds back any more.

        Returns answers to peers, and callers of this node that are answered.
        """
        responses: list[ForwardResponse] = []
        answered: list[tuple[Done, list[Outcome]]] = []
        for payloads, peer, request_id, _ in self.turns.expire(now):
            keys = [payload[KEY] for payload in payloads]
            if peer:
                responses.append(self._forward_response(peer, request_id, 0, "fence", keys))
            else:
                answered += self._end(keys, "Overloaded", _REFUSALS["fence"])
        while (held := self.turns.next_held()) is not None:
            self.turns.taken()
            keys = [payload[KEY] for payload in held.payloads]
            if held.peer:
                response = self._append_forwarded(held.peer, held.request_id, held.payloads, now)
                responses.append(msgspec.structs.replace(response, keys=keys))
            else:
                self._place(keys, now)
        return responses, answered

    # From the log

    def resolve(
        self, outcomes: Iterable[Outcome], now: float = 0.0, waited: Histogram | None = None
    ) -> list[tuple[Done, list[Outcome]]]:
        """Match applied entries with their callers. The caller calls each Done after it has left the monitor.

        `waited` counts how long each of them waited until `now`.
        """
        answered: dict[Done, list[Outcome]] = {}
        pop, waiting_until = self._waiters.pop, self._waiting_until
        for outcome in outcomes:
            waiter = pop(outcome.key, None)
            if waiter is not None:
                waiting_until[waiter.deadline] -= 1
                answered.setdefault(waiter.done, []).append(outcome)
                if waited is not None:
                    waited.observe(now - waiter.came_at)
        return list(answered.items())

    # From changes of leadership and the wire

    def leadership_changed(self, now: float) -> None:
        """Place again whatever is not placed with the present leader in the present term."""
        raft = self._raft
        self._not_now = ""
        self.turns.forget()
        self._leaderless_since = None if raft.leader_id else (self._leaderless_since or now)
        place = (raft.leader_id, raft.current_term)
        for keys in (self._to_forward, *(keys for _, keys in self._forwarded.values())):
            for key in keys:  # not sent, or sent and not answered: not placed, whoever leads
                if (waiting := self._waiters.get(key)) is not None:
                    waiting.placed_with = ""
        self._to_forward.clear()
        self._forwarded.clear()
        self._unplaced.clear()
        self._place(
            [key for key, waiter in self._waiters.items() if (waiter.placed_with, waiter.placed_term) != place], now
        )

    @property
    def has_forwards(self) -> bool:
        """Whether take_forward() has something for the leader."""
        return bool(self._to_forward)

    def take_forward(self, peer: str) -> ForwardProposals | None:
        """What the thread of `peer` is to forward to it now."""
        raft = self._raft
        if not self._to_forward or raft.leader_id != peer:
            return None
        keys: list[bytes] = []
        payloads: list[bytes] = []
        size = taken = 0
        for key in self._to_forward:
            waiter = self._waiters.get(key)
            if waiter is not None:
                size += len(waiter.payload)
                if payloads and size > MAX_FORWARD_BYTES:
                    break
                waiter.doubts += 1
                keys.append(key)
                payloads.append(waiter.payload)
            taken += 1
        del self._to_forward[:taken]
        if not payloads:
            return None
        request_id = self._next_request_id
        self._next_request_id += 1
        self._forwarded[request_id] = (peer, keys)
        return ForwardProposals(raft.current_term, raft.node_id, peer, request_id, payloads)

    def forward_answered(self, response: ForwardResponse, now: float) -> list[tuple[Done, list[Outcome]]]:
        """The leader's word on what was forwarded: appended, or why not."""
        _, keys = self._forwarded.pop(response.request_id, ("", []))
        if response.first_index:
            self._not_now = ""
            return []
        others: list[bytes] = []
        if response.keys:
            others = [key for key in keys if key not in response.keys]
            keys = [key for key in keys if key in response.keys]
        refused: list[bytes] = []
        for key in keys:
            waiter = self._waiters.get(key)
            if waiter is not None:
                waiter.doubts -= 1
                waiter.placed_with = ""
                refused.append(key)
        if response.reason == "unsupported":  # the leader has done nothing with the others either: at once again
            for key in others:
                if (waiting := self._waiters.get(key)) is not None:
                    waiting.doubts -= 1
            ended = [key for key in refused if not self._waiters[key].doubts]
            answered = self._end(ended, CommandNotSupported.__name__, response.text)
            self._place(others, now)
            return answered
        if response.reason == "not_now":  # whoever waits goes on waiting
            self._not_now = response.text
        if words := _REFUSALS.get(response.reason):
            return self._end([key for key in refused if not self._waiters[key].doubts], "Overloaded", words)
        self._park(refused, now)
        return []

    def peer_lost(self, peer: str, now: float) -> None:
        """The connection to `peer` ended: what was forwarded over it is in doubt and is placed again."""
        lost = [request_id for request_id, (to, _) in self._forwarded.items() if to == peer]
        for request_id in lost:
            keys = [key for key in self._forwarded.pop(request_id)[1] if key in self._waiters]
            for key in keys:
                self._waiters[key].placed_with = ""
            self._park(keys, now)

    # From the timer

    @property
    def next_deadline(self) -> float:
        """When expire() has something to do."""
        deadlines, waiting_until = self._deadlines, self._waiting_until
        while deadlines and not waiting_until[deadlines[0]]:
            del waiting_until[heapq.heappop(deadlines)]
        deadline = min(self._retry_at, deadlines[0] if deadlines else float("inf"))
        if self._leaderless_since is not None and self._waiters:
            deadline = min(deadline, self._leaderless_since + self._no_leader_timeout)
        return deadline

    def expire(self, now: float) -> list[tuple[Done, list[Outcome]]]:
        """Retry what was refused; end what is past its deadline, or without a leader for too long."""
        if now >= self._retry_at:
            self._retry_at = float("inf")
            unplaced, self._unplaced = self._unplaced, []
            self._place(unplaced, now)
        ended: list[bytes] = []
        text = "no answer within the time limit" + (self._not_now and f"; {self._not_now}")
        if self._deadlines and self._deadlines[0] <= now:
            ended = [key for key, waiter in self._waiters.items() if waiter.deadline <= now]
        if self._leaderless_since is not None and now >= self._leaderless_since + self._no_leader_timeout:
            ended = list(self._waiters)
            self._leaderless_since = now
        if self._raft.leader_id == "":
            voters = sorted(self._raft.configuration.voters)
            text = f"no leader: no majority of {voters} can be reached from {self._raft.node_id}"
        return self._end(ended, "NoLeader", text)

    def end_all(self, error: str, text: str) -> list[tuple[Done, list[Outcome]]]:
        """The node stops or withdraws: every caller gets an answer."""
        return self._end(list(self._waiters), error, text)

    # Inside

    def _end(self, keys: list[bytes], error: str, text: str) -> list[tuple[Done, list[Outcome]]]:
        outcomes: list[Outcome] = []
        for key in keys:
            waiter = self._waiters.get(key)
            if waiter is None:
                continue
            if waiter.doubts:
                outcomes.append(Outcome(key, UNKNOWN, 0, msgspec.msgpack.encode(("OutcomeUnknown", text))))
            else:
                outcomes.append(refusal(key, error, text))
        return self.resolve(outcomes)

    def _park(self, keys: list[bytes], now: float) -> None:
        if keys:
            self._unplaced.extend(keys)
            self._retry_at = min(self._retry_at, now + RETRY_INTERVAL)

    def _place(self, keys: list[bytes], now: float) -> None:
        raft = self._raft
        keys = [key for key in keys if key in self._waiters]
        if not keys:
            return
        if unsupported := self._unsupported([self._waiters[key].payload for key in keys]):
            for key, reason in unsupported.items():
                if not self._waiters[key].doubts:
                    self._refused += self._end([key], CommandNotSupported.__name__, reason)
            keys = [key for key in keys if key not in unsupported]
        if raft.role is Role.LEADER:
            if not self._append_own(keys, now):
                self._park(keys, now)
                return
        elif raft.leader_id:
            self._to_forward.extend(keys)
        else:
            self._leaderless_since = self._leaderless_since or now
            self._unplaced.extend(keys)
            return
        for key in keys:
            waiter = self._waiters[key]
            waiter.placed_with, waiter.placed_term = raft.leader_id, raft.current_term

    def _append_own(self, keys: list[bytes], now: float) -> bool:
        """Append what the write turn lets pass, hold back the rest. False: the leader takes nothing just now."""
        passing, held = self._divide([self._waiters[key].payload for key in keys])
        if passing:
            try:
                self._raft.propose(passing, self._log_time(now), now)
            except (NotLeader, Overloaded) as error:
                self._not_now = str(error) if isinstance(error, NotNow) else ""
                return False
            self._not_now = ""
            self.turns.appended(passing)
        for payload in passing:
            self._waiters[payload[KEY]].doubts += 1
        if held:  # bounded as the waiting callers are
            self.turns.hold(held, "", 0, now)
        return True
