"""One proposer over several nodes: what one of them leaves unanswered is sent, unchanged, through the next."""

import queue
from collections.abc import Callable, Sequence
from typing import Any

from raftlog.consensus.entries import KEY
from raftlog.exceptions import NodeUnavailable
from raftlog.runtime import clock
from raftlog.runtime.ports import NOT_PROPOSED, UNKNOWN, Outcome, Proposer

# One node is given this long before the same proposal is sent through another one.
ATTEMPT_TIMEOUT = 1.5  # seconds
PAUSE = 0.02  # seconds before the next attempt, where a node could not be reached


class Failover:
    """A Proposer. For one thread, with one call at a time.

    Sending again is safe because a payload carries (session, sequence): where the first attempt was committed after
    all, the second one is recognised and gets the recorded result.
    """

    def __init__(self, nodes: Sequence[Proposer], first: int) -> None:
        self._nodes = list(nodes)
        self._current = first % len(nodes)

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        """Blocks until there is an outcome, and calls `done` from this thread."""
        deadline = clock.monotonic() + timeout
        unsure = False
        while True:
            left = deadline - clock.monotonic()
            outcomes = self._attempt(payloads, min(left, ATTEMPT_TIMEOUT))
            unsure = unsure or any(outcome.status == UNKNOWN for outcome in outcomes)
            if all(outcome.status not in (UNKNOWN, NOT_PROPOSED) for outcome in outcomes) or left <= ATTEMPT_TIMEOUT:
                break
            self._current = (self._current + 1) % len(self._nodes)
        if unsure:  # an earlier attempt may have been committed, whatever the last one says
            outcomes = [
                Outcome(outcome.key, UNKNOWN, 0, b"") if outcome.status == NOT_PROPOSED else outcome
                for outcome in outcomes
            ]
        done(outcomes)

    def _attempt(self, payloads: list[bytes], timeout: float) -> list[Outcome]:
        answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
        outcomes: list[Outcome] = []
        try:
            self._nodes[self._current].propose(payloads, timeout, answers.put)
        except NodeUnavailable:
            clock.sleep(PAUSE)
            return [Outcome(payload[KEY], NOT_PROPOSED, 0, b"") for payload in payloads]
        while len(outcomes) < len(payloads):
            outcomes += answers.get()
        return outcomes

    def status(self) -> dict[str, Any]:
        return self._nodes[self._current].status()
