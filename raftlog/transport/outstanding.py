"""What a client of the host's node has asked and not been told yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from raftlog.consensus.entries import KEY
from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.runtime.ports import NOT_PROPOSED, UNKNOWN, Outcome
from raftlog.transport.client_messages import Answer

logger = logging.getLogger("raftlog.transport")

Done = Callable[[list[Outcome]], None]


class RequestFailed(RaftlogError):
    """The node could not answer a request; the text says why, `error` is the class name of its exception."""

    def __init__(self, error: str, text: str) -> None:
        self.error = error
        super().__init__(f"{error}: {text}")


class Proposal:
    """A Propose without all its outcomes."""

    __slots__ = ("deadline", "done", "in_doubt", "payloads", "sent")

    def __init__(self, payloads: list[bytes], deadline: float, done: Done) -> None:
        # Those without an outcome, by payload[KEY].
        self.payloads = {payload[KEY]: payload for payload in payloads}
        self.deadline = deadline
        self.done = done
        self.sent = False
        # It was sent over a connection that was lost, so the node that answers may not know what became of it:
        # its "not proposed" is about this copy only, and the outcome is unknown.
        self.in_doubt = False

    def judged(self, outcome: Outcome) -> Outcome:
        """What the node's word on its copy means for the proposal."""
        if self.in_doubt and outcome.status == NOT_PROPOSED:
            return Outcome(outcome.key, UNKNOWN, 0, outcome.result)
        return outcome


class Question:
    """A Request without its answer. Not repeated over connections.

    `done` is called once, from any thread, with the answer, or with what stands for it where the connection was lost
    or `deadline` has passed (math.inf: whoever asks looks at the clock).
    """

    __slots__ = ("answer", "deadline", "done")

    def __init__(self, done: Callable[[Answer], None], deadline: float = math.inf) -> None:
        self.answer = Answer(0, b"", "NodeUnavailable", "the connection to the node was lost, or it gave no answer")
        self.done = done
        self.deadline = deadline

    def end(self, answer: Answer | None = None) -> None:
        self.answer = answer or self.answer
        call(self.done, self.answer)


def call(done: Callable[[Any], None], argument: Any) -> None:
    try:
        done(argument)
    except Exception:  # a caller's mistake must not take the answers of all others away
        logger.exception("a callback failed", extra=log_fields("callback_failed"))
