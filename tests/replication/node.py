"""A node of one server without Raft: proposals become entries at once, applied by a thread of its own."""

import queue
import threading

import msgspec

from raftlog.consensus.entries import KEY
from raftlog.exceptions import NodeUnavailable
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.runtime.ports import NOT_PROPOSED, UNKNOWN, Outcome
from tests.replication.log import START, batch, configuration


class OneNode:
    """Implements ports.Proposer over a DatabaseStateMachine; faults are switched on by tests."""

    def __init__(self) -> None:
        self.machine = DatabaseStateMachine("default")
        self.log_time = START
        self.proposed: list[bytes] = []
        self.turns: list[tuple[bytes, bool]] = []
        self.released: list[bytes] = []
        # Faults. Each takes the payloads of one proposal and says whether it strikes.
        self.unavailable = False
        self.lose_answer = lambda payloads: False  # applied, but the caller hears nothing
        self.answer_unknown = lambda payloads: False  # not applied; the caller hears "unknown"
        self.refuse = lambda payloads: ""  # not proposed, with this exception's name
        self.silent = False  # reads are never answered
        self.confirms = lambda: (self.machine.last_applied, "")
        self.reads = 0
        self.held: list = []
        self.hold = False  # keep proposals until release()
        self._work: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._main, name="one-node")
        self._thread.start()

    def propose(self, payloads, timeout, done):
        if self.unavailable:
            raise NodeUnavailable("the node is not there")
        self.proposed += payloads
        if self.hold:
            self.held.append((payloads, done))
        else:
            self._work.put((payloads, done))

    def release(self, *, twice: bool = False) -> None:
        held, self.held, self.hold = self.held, [], False
        for payloads, done in held:
            self._work.put((payloads, done))
            if twice:  # as where a leader change left two copies in the log
                self._work.put((payloads, lambda outcomes: None))

    def read(self, timeout, done):
        """Confirmed at once, at the place where the machine is."""
        if self.unavailable:
            raise NodeUnavailable("the node is not there")
        self.reads += 1
        if not self.silent:
            done(*self.confirms())

    def take_turn(self, key, *, is_fence, timeout):
        """Granted at once: there is no leader who would hold anything back."""
        self.turns.append((key, is_fence))
        return True

    def renew_turn(self, key, *, is_fence):
        pass

    def release_turn(self, key):
        self.released.append(key)

    def status(self):
        return {}

    def stop(self) -> None:
        self._work.put(None)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def settle(self) -> None:
        """Wait until all that was proposed is applied."""
        reached = threading.Event()
        self._work.put(reached)
        assert reached.wait(10)

    def call(self, function):
        """Run it in the thread that applies, and return what it returns."""
        answer: queue.Queue = queue.Queue()
        self._work.put(lambda: answer.put(function()))
        return answer.get(timeout=20)

    def restart(self) -> None:
        """As if the node's process ended and was started again."""

        def again():
            self.machine.close()
            self.machine = DatabaseStateMachine("default")

        self.call(again)

    def _main(self) -> None:
        try:
            self.machine.apply(batch([configuration()], 1))
            for work in iter(self._work.get, None):
                if isinstance(work, threading.Event):
                    work.set()
                elif callable(work):
                    work()
                else:
                    self._serve(*work)
        finally:
            self.machine.close()

    def _serve(self, payloads, done) -> None:
        if name := self.refuse(payloads):
            done([Outcome(p[KEY], NOT_PROPOSED, 0, msgspec.msgpack.encode((name, "as told"))) for p in payloads])
        elif self.answer_unknown(payloads):
            text = msgspec.msgpack.encode(("OutcomeUnknown", "no answer"))
            done([Outcome(p[KEY], UNKNOWN, 0, text) for p in payloads])
        else:
            outcomes = self.machine.apply(batch(payloads, self.machine.last_applied + 1, log_time=self.log_time))
            if not self.lose_answer(payloads):
                done(outcomes)
