"""An application's thread on a simulated host, and its proposals through the host's node."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from django.db import connections

from raftlog.backends import heat
from raftlog.consensus.entries import (
    COMMAND,
    KEY,
    OPEN_SESSION,
    RESERVE,
    SCHEMA,
    TRANSACTION,
    client_payload,
    proposal_key,
)
from raftlog.replication import codec
from raftlog.replication.effects import Effects
from raftlog.runtime.ports import APPLIED, FAILED, REFUSED, UNKNOWN, Outcome
from raftlog.runtime.proposals import refusal
from raftlog.testing.safety import Violation
from raftlog.testing.sql import steps
from raftlog.testing.sql.attempt import Attempt, Ending
from raftlog.testing.sql.log import WantsClusterTurn, WantsProposal
from raftlog.testing.sql.program import Pause, Program
from raftlog.testing.sql.turn import WantsTurn
from raftlog.testing.sql.worker import Worker

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.sql.host import Host
    from raftlog.testing.sql.workload import SqlWorkload

KINDS: Final = {COMMAND: "commands", TRANSACTION: "transactions", SCHEMA: "schema changes", RESERVE: "reservations"}
GIVE_UP_AFTER: Final = (1.0, 8.0)  # virtual seconds, drawn for each proposal
TURN_RENEWED_EVERY: Final = 1.0  # virtual seconds


class Idle:
    """A request: give me something to do."""


class SqlClient:
    """One program or command after another. A proposal that it gives up ends its session."""

    def __init__(self, workload: SqlWorkload, node: SimulatedNode, host: Host, name: str, rng: random.Random) -> None:
        self.workload = workload
        self.simulation = workload.simulation
        self.node = node
        self.host = host
        self.name = name
        self.rng = rng
        self.keys_rng = workload.simulation.rng(f"idempotency keys of {name}")
        self.generation = 0
        self.number = 0
        self.attempt = Attempt(name)
        self.plain = "plain"  # what the table without a key was called when last seen
        self.is_retired = False
        self._worker: Worker | None = None
        # Raised by everything that ends a wait: what was waited for before is void.
        self._wait = 0
        self._session = b""
        self._session_is_open = False
        self._sequence = 0
        # The proposal under way.
        self._payload = b""
        self._request: WantsProposal | WantsClusterTurn | None = None  # not proposed yet: the session is not open
        # The cluster's turn, and the sequence under which it is to be used: 0 for a fence, and once it has been.
        self._turn: WantsClusterTurn | None = None
        self._turn_key = b""
        self._turn_sequence = 0
        self._is_doubtful = False
        self._give_up_at = 0.0
        self._new_session()

    @property
    def label(self) -> str:
        return f"{self.name}.{self.generation}"

    def start(self) -> None:
        self._think()

    def die(self) -> None:
        """Its process ended. Another takes its place after a while."""
        if self.is_retired:
            return
        self._kill_worker()
        self._new_session()
        self.simulation.after(self.rng.choice((0.05, 0.5, 2.0)) * self.rng.random(), self._waiting(self._begin))

    def retire(self) -> None:
        """Its host is no more."""
        if not self.is_retired:
            self.is_retired = True
            self._kill_worker()
            self.simulation.client_finished()

    def _kill_worker(self) -> None:
        self._wait += 1
        self._release_turn()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _new_session(self) -> None:
        self._release_turn()  # it is the old one's
        self.generation += 1
        self._session = self.rng.randbytes(16)
        self._session_is_open = False
        self._sequence = 0

    def _waiting(self, action: Any, *arguments: Any) -> Any:
        """`action`, unless what is waited for has come to an end by then."""
        self._wait += 1
        wait = self._wait

        def act() -> None:
            if wait == self._wait and not self.is_retired:
                action(*arguments)

        return act

    def _waiting_too(self, action: Any, *arguments: Any) -> Any:
        """As _waiting(), for another end of the same wait."""
        self._wait -= 1
        return self._waiting(action, *arguments)

    def _think(self) -> None:
        pause = self.rng.expovariate(1 / self.simulation.profile.think_time)
        self.simulation.after(pause, self._waiting(self._begin))

    def _begin(self) -> None:
        if self.simulation.is_ending:
            self.retire()
            return
        rng = self.rng
        self.number += 1
        if rng.random() < self.workload.profile.application_kills:
            self.simulation.count("applications killed")
            self.host.kill_applications()
            return
        if self.workload.is_set_up(self.host) and rng.random() < self.workload.profile.command_share:
            self._begin_command()
            return
        if self._worker is None:
            self._worker = Worker(self._work)
            self._worker.resume()
        self._resume(None)

    # The worker's thread

    def _work(self, worker: Worker) -> None:
        try:
            while True:
                worker.park(Idle())
                self._draw_program()
        finally:
            connections[self.host.alias].close()
            del connections[self.host.alias]

    def _draw_program(self) -> None:
        rng = self.rng
        # As a first try of something that would be run again; as a second try; as something that nobody runs again.
        # The last two take the cluster's turn.
        if rng.random() < self.workload.profile.turn_share:
            around: AbstractContextManager[Any] = Effects(2) if rng.random() < 0.5 else nullcontext()
        else:
            around = Effects(1)
        with around:
            self._run_program(Program(self, rng))

    def _run_program(self, program: Program) -> None:
        heat._conflicted_at.clear()  # it goes by the real clock, and one process stands for all hosts here
        rng = self.rng
        if not self.workload.is_set_up(self.host):
            self.attempt = program.together([steps.make_schema])
            return
        kind = rng.random()
        schema_share = self.workload.profile.schema_share
        if kind < schema_share / 5:
            program.together([steps.remake_folder], remake=True)
        elif kind < schema_share:
            program.together([rng.choice(steps.SCHEMA_STEPS)])
        elif kind < schema_share + 0.2:
            program.alone(rng.choice(steps.ALONE))
        else:
            program.together(steps.some_steps(rng, 6), used=self.workload.keys.draw(self.keys_rng))
        if "no such table" in self.attempt.error:
            self.plain = "simple" if self.plain == "plain" else "plain"

    # Its requests

    def _resume(self, answer: Any) -> None:
        assert self._worker is not None
        request = self._worker.resume(answer)
        if isinstance(request, Idle):
            self._ended()
        elif isinstance(request, Pause):
            self.simulation.after(request.seconds, self._waiting(self._resume, None))
        elif isinstance(request, WantsTurn):
            request.turn.wait(self._waiting(self._resume, None), ahead=request.ahead)
        else:
            self._propose(request)

    def _ended(self) -> None:
        self.simulation.trace("transaction", self.attempt.who, self.attempt.ending.value, len(self.attempt.calls))
        self.simulation.count(f"transactions {self.attempt.ending.value}")
        self.workload.attempts.append(self.attempt)
        self._release_turn()
        self._think()

    # Commands

    def _begin_command(self) -> None:
        name, arguments = self._draw_command()
        used = self.workload.keys.draw(self.keys_rng, name, arguments)
        if used is None:
            self.attempt = Attempt(self.label, command=name, arguments=arguments)
            body = codec.encode_command(name, 1, arguments)
        else:
            self.simulation.count("commands with a key")
            name, arguments = used.command, used.arguments
            self.attempt = Attempt(self.label, command=name, arguments=arguments, key=used.key)
            body = codec.encode_command(name, 1, arguments, used.name.asking("command", name, arguments))
        self._propose(WantsProposal(COMMAND, body))

    def _draw_command(self) -> tuple[str, dict[str, Any]]:
        rng = self.rng
        key, row = rng.choice(steps.NAMED_KEYS), rng.randrange(1, 4)
        one, other = rng.sample(steps.NAMES, 2)
        item = rng.choice(steps.NAMED_KEYS)
        return rng.choice(
            (
                ("bump", {"row": row, "token": f"{self.label}.{self.number} "}),
                ("open_account", {"name": one}),
                ("add_account", {"key": key, "name": rng.choice((None, one))}),
                ("add_account", {"key": key, "name": None}),
                ("close_account", {"key": key}),
                ("add_item", {"key": item, "account": key}),
                ("add_item", {"key": item, "account": key}),
                ("move_item", {"key": item, "account": rng.choice((None, key))}),
                ("rename", {"before": one, "after": other}),
                ("refuse", {"row": row}),
            )
        )

    def _command_ended(self, outcome: Outcome | None) -> None:
        attempt = self.attempt
        if outcome is None:
            attempt.ending = Ending.UNKNOWN
        elif outcome.status in (APPLIED, FAILED):
            attempt.ending = Ending.APPLIED if outcome.status == APPLIED else Ending.INTEGRITY
            attempt.told = outcome.result if outcome.status == APPLIED else b""
        else:
            attempt.ending = Ending.NOT_PROPOSED
        self.simulation.count(f"commands {attempt.ending.value}")
        self.workload.attempts.append(attempt)
        self._think()

    # Proposals, as the session of a process makes them: repeated with one sequence until there is an answer

    def _propose(self, request: WantsProposal | WantsClusterTurn) -> None:
        self._give_up_at = self.simulation.now + self.rng.uniform(*GIVE_UP_AFTER)
        self._is_doubtful = False
        self._request = request
        if self._session_is_open:
            self._propose_request()
        else:
            self._payload = client_payload(OPEN_SESSION, self._session, 0, 0, b"")
            self._try()

    def _propose_request(self) -> None:
        assert self._request is not None
        request, self._request = self._request, None
        if isinstance(request, WantsClusterTurn):
            self._take_turn(request)
            return
        sequence = 0
        if request.kind == TRANSACTION and self._turn_sequence and self._turn and not self._turn.is_over:
            sequence, self._turn_sequence = self._turn_sequence, 0
        if not sequence:
            sequence = self._sequence = self._sequence + 1
        # One at a time: everything below this sequence has been answered, or is the one that the turn waits for.
        self._payload = client_payload(
            request.kind, self._session, sequence, self._turn_sequence or sequence, request.body
        )
        self.simulation.count(f"proposed: {KINDS[request.kind]}")
        if request.kind != RESERVE:
            self.attempt.entries.append(self._payload[KEY])
        self.workload.proposed[self._payload[KEY]] = self.attempt
        self._try()

    def _try(self) -> None:
        rng, simulation = self.rng, self.simulation
        if simulation.now > self._give_up_at and not simulation.is_ending:
            self._give_up()
            return
        patience = rng.uniform(0.2, 2.0) if self.node.is_up else rng.uniform(0.02, 0.2)
        again = self._waiting(self._try_again, self.node.is_up)
        wait = self._wait
        if self.node.is_up:
            self.node.propose(self._payload, patience, lambda outcomes: self._answered(wait, outcomes[0]))
        simulation.after(patience * 1.2, again)

    def _try_again(self, was_up: bool) -> None:
        self._is_doubtful |= was_up  # it got no answer, or one that it cannot rest on
        self._try()

    def _answered(self, wait: int, outcome: Outcome) -> None:
        if wait != self._wait or self.is_retired:
            return
        if outcome.status == REFUSED:
            text = f"{self.label} was told that its session is unknown, which it had opened"
            raise Violation("exactly once", text)
        if outcome.status == UNKNOWN:
            self._is_doubtful = True
        elif outcome.status in (APPLIED, FAILED):
            self._settle(outcome)
        else:  # not proposed: nothing was done, this time
            self.simulation.after(self.rng.uniform(0.02, 0.2), self._waiting(self._try))

    def _settle(self, outcome: Outcome) -> None:
        self._wait += 1
        if self._request is not None:
            self._session_is_open = True
            self._propose_request()
        else:
            self._hand_over(outcome)

    def _give_up(self) -> None:
        """Not known, unless nothing can have been done."""
        is_known = self._request is not None or not self._is_doubtful
        key = self._payload[KEY]
        self.simulation.count("given up")
        if not is_known or self._request is not None:
            self._new_session()
        request, self._request = self._request, None
        if isinstance(request, WantsClusterTurn):
            self._resume(False)
            return
        self._hand_over(refusal(key, "NoLeader", "nothing was done") if is_known else None)

    # The cluster's turn

    def _take_turn(self, request: WantsClusterTurn) -> None:
        self._sequence += 1
        key = proposal_key(self._session, self._sequence)
        self._turn, self._turn_key, self._turn_sequence = request, key, 0 if request.is_fence else self._sequence
        wait = self.rng.uniform(*GIVE_UP_AFTER)
        answered = self._waiting(self._turn_answered, True)
        refused = self._waiting_too(self._turn_answered, False)
        if self.node.is_up:
            self.node.take_turn(key, request.is_fence, wait, lambda granted: (answered if granted else refused)())
        self.simulation.after(wait * 1.2, refused)

    def _turn_answered(self, granted: bool) -> None:
        self._wait += 1
        self.simulation.count("turns granted" if granted else "turns not granted")
        assert self._turn is not None
        if granted:
            self._watch_turn(self._turn)
        else:
            self._turn.is_over = True
            self._release_turn()
        self._resume(granted)

    def _watch_turn(self, turn: WantsClusterTurn) -> None:
        """Renew it while it is held; release it when it is over, unless its proposal does that."""
        if turn is not self._turn:
            return
        if turn.is_over:
            self._release_turn()
            return
        if self.node.is_up:
            self.node.renew_turn(self._turn_key, turn.is_fence)
        self.simulation.after(TURN_RENEWED_EVERY, lambda: self._watch_turn(turn))

    def _release_turn(self) -> None:
        if self._turn is not None:
            if self.node.is_up and (self._turn.is_fence or self._turn_sequence):
                self.node.release_turn(self._turn_key)
            self._turn, self._turn_sequence = None, 0

    def _hand_over(self, outcome: Outcome | None) -> None:
        if self.attempt.command:
            self._command_ended(outcome)
        else:
            self._resume(outcome)
