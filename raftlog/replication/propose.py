"""Proposing commands from any process: blocking, asynchronous, or many at once.

The node in this process, or a client of the host's node, is given by `set_proposer_factory`. A call returns once
the command is applied to the local database, with its result, or raises what raftlog.exceptions says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from asgiref.sync import sync_to_async
from django.core.signals import setting_changed
from django.db import connections

from raftlog.conf import load_settings
from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.exceptions import InsideTransaction, NodeUnavailable, NotProposed, OutcomeUnknown, SessionExpired
from raftlog.replication import codec, effects, written
from raftlog.replication.client_session import Answers, BlockingAnswers, ClientSession
from raftlog.replication.context import is_applying
from raftlog.replication.failures import SESSION_EXPIRED, decode_failure, proposal_failure, refusal_of
from raftlog.replication.keyed import IdempotencyName, next_key
from raftlog.replication.open_transaction import is_inside_transaction
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, FAILED, NOT_PROPOSED, REFUSED, UNKNOWN, Outcome, Proposer

if TYPE_CHECKING:
    from raftlog.replication.registry import Command

MAX_TIMEOUT: Final = 86_400  # seconds
ANSWER_GRACE: Final = 1.0  # seconds that a caller waits beyond its time limit for the node to say how it ended
CHUNK: Final = 2_048  # proposals that propose_many hands over at once; two such are on their way


class InlineProposer(Proposer, Protocol):
    """A proposer that has applied an entry, in the calling thread, when propose() returns."""

    def find(self, key: bytes) -> Outcome | None:
        """How the entry with this key ended."""
        ...


class Limits(NamedTuple):
    """What proposing needs of the settings."""

    alias: str
    timeout: float
    max_command_bytes: int


@functools.cache
def limits() -> Limits:
    settings = load_settings()
    return Limits(settings.database, settings.proposal_timeout, settings.max_command_bytes)


def _forget_limits(*, setting: str, **kwargs: Any) -> None:
    if setting == "RAFTLOG":
        limits.cache_clear()


setting_changed.connect(_forget_limits)


# The way to the node, and the session of this process


class _Process:
    """What a process has one of. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.factory: Callable[[], Proposer] | None = None
        self.session: ClientSession | None = None
        # In tests: what applies at once, on the caller's own connection (raftlog.testing.inline).
        self.inline: InlineProposer | None = None

    def current(self) -> ClientSession:
        """Raises NodeUnavailable, and what the factory raises."""
        with self.lock:
            if self.session is None:
                if self.factory is None:
                    raise NodeUnavailable("no way to a node is set up in this process: is 'raftlog' in INSTALLED_APPS?")
                self.session = ClientSession(self.factory())
            return self.session

    def expired(self, session: ClientSession) -> None:
        """The cluster does not know this session any more: make another at the next call."""
        with self.lock:
            if self.session is session:
                self.session = ClientSession(session.proposer)

    def forked(self) -> None:
        """In the child: the parent's session, threads and sockets are not ours."""
        self.lock = threading.Lock()
        self.session = None


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


def set_proposer_factory(factory: Callable[[], Proposer] | None) -> None:
    """`factory` is called at the first proposal of this process, and again in each forked child. None: forget it.

    A factory that returns a client of another process may block; the proposer that it returns must not.
    """
    with _process.lock:
        _process.factory = factory
        _process.session = None


@contextlib.contextmanager
def proposing_to(proposer: Proposer, inline: InlineProposer | None = None) -> Iterator[None]:
    """For tests: inside, what this process proposes goes to `proposer`, under a session of its own.

    `inline`: the same one, where it applies inline.
    """
    with _process.lock:
        before = _process.factory, _process.session, _process.inline
        _process.factory, _process.session, _process.inline = (lambda: proposer), None, inline
    try:
        yield
    finally:
        with _process.lock:
            _process.factory, _process.session, _process.inline = before


def current_session() -> ClientSession:
    """The session of this process, for proposals that are no commands. Raises NodeUnavailable."""
    return _process.current()


def inline_proposer() -> InlineProposer | None:
    """In tests: what applies at once."""
    return _process.inline


def session_expired(session: ClientSession) -> None:
    """The cluster does not know this session any more: current_session() makes another."""
    _process.expired(session)


# Proposing


class Bound:
    """A command with options: `buy.with_options(timeout=2).propose(item_id=3)`."""

    def __init__(
        self, command: Command, *, timeout: float | None, proposal_id: str, key: IdempotencyName | None = None
    ) -> None:
        self._command = command
        self._options: dict[str, Any] = {"timeout": timeout, "proposal_id": proposal_id, "key": key}

    def propose(self, /, **arguments: Any) -> Any:
        return propose(self._command, arguments, **self._options)

    async def apropose(self, /, **arguments: Any) -> Any:
        return await apropose(self._command, arguments, **self._options)


def propose(
    command: Command,
    arguments: dict[str, Any],
    *,
    timeout: float | None = None,
    proposal_id: str = "",
    key: IdempotencyName | None = None,
) -> Any:
    """Propose and wait, at most `timeout` seconds (default RAFTLOG["PROPOSAL_TIMEOUT"]).

    Args:
        proposal_id: that of an OutcomeUnknown: the same attempt again. If it was applied, its result is returned.
            Where it cannot be proposed now, that is OutcomeUnknown again, never NotProposed.
        key: what was done under it before is not done again; its recorded result is returned.

    Raises:
        IdempotencyKeyReused: the key stands for something else.
        InvalidArguments, PayloadTooLarge, InsideTransaction: before anything is proposed.
        NotProposed (NoLeader, Overloaded, NodeUnavailable): nothing was done, and nothing will be.
        OutcomeUnknown: it may have been applied, or may be yet.
        CommandFailed, IntegrityError, DataError, what the command declares: it failed, alike on every node.
    """
    attempt = _Attempt(command, arguments, timeout, key)
    if proposal_id:
        answers = BlockingAnswers(1)
        attempt.repeat(proposal_id, answers)
        answers.wait(attempt.patience())
        return attempt.repeated(proposal_id, answers.outcomes[0])
    for is_last in (False, True):
        session = _process.current()
        session.open(attempt.remaining())
        answers = BlockingAnswers(1)
        sequence = session.submit([attempt.body], answers, attempt.remaining())
        answers.wait(attempt.patience())
        if is_last or not attempt.is_refused(session, answers.outcomes[0]):
            break
    return attempt.result(session, sequence, answers)


async def apropose(
    command: Command,
    arguments: dict[str, Any],
    *,
    timeout: float | None = None,
    proposal_id: str = "",
    key: IdempotencyName | None = None,
) -> Any:
    """As propose(), without blocking the event loop. Cancelling it leaves the outcome unknown."""
    if _process.inline is not None:  # it uses the connection, which belongs to the thread of synchronous code
        return await sync_to_async(propose)(command, arguments, timeout=timeout, proposal_id=proposal_id, key=key)
    attempt = _Attempt(command, arguments, timeout, key)
    if proposal_id:
        await asyncio.to_thread(_process.current)
        answers, woken = _async_answers()
        if may_block(_process.current().proposer):
            await asyncio.to_thread(attempt.repeat, proposal_id, answers)
        else:
            attempt.repeat(proposal_id, answers)
        await _wait(woken, attempt.patience())
        return attempt.repeated(proposal_id, answers.outcomes[0])
    for is_last in (False, True):
        current = _process.session
        if current is not None and current.is_open:
            session = current
        else:
            session = await asyncio.to_thread(_open_session, attempt.remaining())
        answers, woken = _async_answers()
        sequence = await _submit(session, attempt, answers)
        try:
            await _wait(woken, attempt.patience())
        except asyncio.CancelledError:
            session.give_up(sequence, 1)
            raise
        if is_last or not attempt.is_refused(session, answers.outcomes[0]):
            break
    return attempt.result(session, sequence, answers)


def propose_many(calls: Sequence[tuple[Command, dict[str, Any]]], *, timeout: float | None = None) -> list[Any]:
    """Propose many commands, pipelined and in this order, and wait for all; one that fails stops none of the others.

    Args:
        timeout: seconds for each chunk of 2,048.

    Returns:
        For each call its result, or the exception that propose() would have raised.
    """
    attempts = [_Attempt(command, arguments, timeout) for command, arguments in calls]
    results: list[Any] = []
    on_their_way: list[_Chunk] = []
    for start in range(0, len(attempts), CHUNK):
        on_their_way.append(_Chunk(attempts[start : start + CHUNK]))
        if len(on_their_way) > 1:
            results += on_their_way.pop(0).wait()
    for chunk in on_their_way:
        results += chunk.wait()
    return results


class _Attempt:
    """One command on its way: encoded once, with its time limit."""

    __slots__ = ("_deadline", "_timeout", "body")

    def __init__(
        self,
        command: Command,
        arguments: dict[str, Any],
        timeout: float | None,
        key: IdempotencyName | None = None,
    ) -> None:
        alias, default_timeout, max_bytes = limits()
        refuse_inside_transaction(alias, command.name)
        self.body = command.encode(arguments, max_bytes, key or (next_key() if command.is_numbered else None))
        self._timeout = default_timeout if timeout is None else timeout
        if not 0 < self._timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout is {timeout!r}; it must be above 0 and at most {MAX_TIMEOUT} seconds")
        self._deadline = clock.monotonic() + self._timeout
        effects.happened()  # what proposes a command is not run again after a conflict

    def restart(self) -> None:
        self._deadline = clock.monotonic() + self._timeout

    def remaining(self) -> float:
        return max(self._deadline - clock.monotonic(), 0.001)

    def patience(self) -> float:
        return self.remaining() + ANSWER_GRACE

    def is_refused(self, session: ClientSession, outcome: Outcome | None) -> bool:
        """Whether to try again under a new session: it was proposed once only, and refused for its session's end.

        No copy of it was applied (this node would have answered with that), and none will be: a session that
        has ended is never opened again.
        """
        if outcome is None or outcome.status != REFUSED or refusal_of(outcome)[0] != SESSION_EXPIRED:
            return False
        _process.expired(session)
        return True

    def result(self, session: ClientSession, sequence: int, answers: Answers, position: int = 0) -> Any:
        """The command's return value. Raises what propose() says."""
        proposal_id = format_proposal_id(session.session_id, sequence)
        if answers.outcomes[position] is None:
            session.give_up(sequence, 1)
        outcome = answers.outcomes[position]  # it may have come just before: then it is acknowledged, and not in doubt
        if outcome is None:
            raise OutcomeUnknown(f"the node gave no answer within {self._timeout:.3g} s", proposal_id)
        return value_of(outcome, proposal_id)

    def repeat(self, proposal_id: str, answers: Answers) -> None:
        """Propose under the id of an earlier attempt, unless its answer came after its caller had given up."""
        session_id, sequence = parse_proposal_id(proposal_id)
        late = late_answer(session_id, sequence)
        if late is not None:
            answers.put(0, late)
            return
        payload = client_payload(COMMAND, session_id, sequence, 0, self.body)
        proposer = _process.current().proposer
        try:
            proposer.propose([payload], self.remaining(), lambda outcomes: answers.put(0, outcomes[0]))
        except NotProposed as error:
            raise still_unknown(str(error), proposal_id) from error

    def repeated(self, proposal_id: str, outcome: Outcome | None) -> Any:
        if outcome is None:
            raise OutcomeUnknown(f"the node gave no answer within {self._timeout:.3g} s", proposal_id)
        session_id, sequence = parse_proposal_id(proposal_id)
        if outcome.status == REFUSED:
            # The first attempt's answer may have come meanwhile, and been acknowledged with a later proposal.
            late = late_answer(session_id, sequence)
            if late is not None:
                return value_of(late, proposal_id)
            text = refusal_of(outcome)[1]
            raise SessionExpired(f"whether proposal {proposal_id} was applied is not known any more: {text}")
        if outcome.status == NOT_PROPOSED:
            raise still_unknown(refusal_of(outcome)[1], proposal_id)
        session = _process.session
        if outcome.status != UNKNOWN and session is not None and session.session_id == session_id:
            session.settled(sequence)
        return value_of(outcome, proposal_id)


class _Chunk:
    """Some of the calls of propose_many, under one wait."""

    def __init__(self, attempts: list[_Attempt], *, is_last_try: bool = False) -> None:
        self._attempts = attempts
        self._is_last_try = is_last_try
        for attempt in attempts:
            attempt.restart()
        last = attempts[-1]
        self._session = _process.current()
        self._session.open(last.remaining())
        self._answers = BlockingAnswers(len(attempts))
        self._first = self._session.submit([attempt.body for attempt in attempts], self._answers, last.remaining())

    def wait(self) -> list[Any]:
        self._answers.wait(self._attempts[-1].patience())
        results: list[Any] = []
        refused: list[int] = []
        for position, attempt in enumerate(self._attempts):
            if not self._is_last_try and attempt.is_refused(self._session, self._answers.outcomes[position]):
                refused.append(position)
            try:
                results.append(attempt.result(self._session, self._first + position, self._answers, position))
            except Exception as error:  # noqa: BLE001  (handed to the caller, in its place)
                results.append(error)
        if refused:  # the session had ended before the first of them
            again = _Chunk([self._attempts[position] for position in refused], is_last_try=True)
            for position, result in zip(refused, again.wait(), strict=True):
                results[position] = result
        return results


def _open_session(timeout: float) -> ClientSession:
    session = _process.current()
    session.open(timeout)
    return session


def _async_answers() -> tuple[Answers, asyncio.Event]:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    return Answers(1, wake), woken


def may_block(proposer: Proposer) -> bool:
    """Whether proposing would connect first: not in an event loop."""
    asked = getattr(proposer, "may_block", None)
    return asked is not None and asked()


async def _submit(session: ClientSession, attempt: _Attempt, answers: Answers) -> int:
    """session.submit(), in a thread where that may wait. Cancelled meanwhile, its outcome is in doubt."""
    if not may_block(session.proposer):
        return session.submit([attempt.body], answers, attempt.remaining())
    placing = asyncio.ensure_future(asyncio.to_thread(session.submit, [attempt.body], answers, attempt.remaining()))

    def given_up(placed: asyncio.Future[int]) -> None:
        if not placed.cancelled() and placed.exception() is None:
            session.give_up(placed.result(), 1)

    try:
        return await asyncio.shield(placing)
    except asyncio.CancelledError:
        placing.add_done_callback(given_up)
        raise


async def _wait(woken: asyncio.Event, timeout: float) -> None:
    try:
        await asyncio.wait_for(woken.wait(), timeout)
    except TimeoutError:
        return


def refuse_inside_transaction(alias: str, name: str) -> None:
    """Raises InsideTransaction where waiting for a proposal would be waiting for oneself."""
    if is_applying():
        raise InsideTransaction(
            f"{name}: a command that is being applied cannot propose another and wait for it, since what is proposed "
            "is applied after it; call the other command's function: other(ctx, …)"
        )
    connection = connections[alias]
    if connection.in_atomic_block if _process.inline is None else is_inside_transaction(connection):
        raise InsideTransaction(
            f"{name}: this thread has an open transaction on DATABASES[{alias!r}], and the proposal would wait for it "
            "to end (it is applied to the same database); propose before or after the atomic block, mark the view with "
            "@transaction.non_atomic_requests, and test with the fixture raft_inline or with RaftInlineTestCase"
        )


def value_of(outcome: Outcome, proposal_id: str) -> Any:
    """The return value in an outcome. Raises what it says otherwise."""
    if outcome.status == APPLIED:
        written.note(outcome.index)
        return codec.decode(outcome.result)
    if outcome.status == FAILED:
        raise decode_failure(outcome.result)
    if outcome.status == UNKNOWN:
        raise OutcomeUnknown(refusal_of(outcome)[1], proposal_id)
    raise proposal_failure(outcome)


# Asking later (asking.py)


def still_unknown(why: str, proposal_id: str) -> OutcomeUnknown:
    """A retry that was not proposed says nothing of the attempts before it."""
    return OutcomeUnknown(f"it could not be proposed again ({why}), and an earlier attempt may be applied", proposal_id)


def format_proposal_id(session_id: bytes, sequence: int) -> str:
    return f"{session_id.hex()}:{sequence}"


def parse_proposal_id(proposal_id: str) -> tuple[bytes, int]:
    """Raises ValueError."""
    session, _, sequence = proposal_id.partition(":")
    try:
        session_id = bytes.fromhex(session)
    except ValueError:
        session_id = b""
    if len(session_id) != 16 or not sequence.isdecimal() or not 0 < int(sequence) < 2**63:
        raise ValueError(f"{proposal_id!r} is no proposal id; it is the proposal_id of an OutcomeUnknown")
    return session_id, int(sequence)


def late_answer(session_id: bytes, sequence: int) -> Outcome | None:
    """What came after its caller had given up, in this process."""
    session = _process.session
    return session.late.get(sequence) if session is not None and session.session_id == session_id else None
