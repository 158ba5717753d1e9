"""`raft digest`, the asking side: one marker for all nodes, their sums, and, where these differ, the rows that do.

The reference is what most voters have. A node that stands still at an older entry is compared row by row: a row that
differs counts where no entry after the lower of the two indices has written it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from raftlog.asking import client_tls, fetch_status
from raftlog.conf import Settings
from raftlog.consensus.entries import KEY, OPEN_SESSION, client_payload
from raftlog.exceptions import RaftlogError
from raftlog.replication.digest import DONE, ENDED, FAILED, HASHING
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, Outcome
from raftlog.transport.client import NodeClient

POLL: Final = 0.1  # seconds
MARKER_TIMEOUT: Final = 30.0

# (name, arguments) -> answer. Raises RaftlogError.
Ask = Callable[[str, dict[str, Any]], Any]


def find_members(settings: Settings) -> dict[str, Any]:
    """The status of the first node that answers. Raises RaftlogError, OSError with the reason of the last."""
    failure: Exception | None = None
    for target in (None, *settings.members.values()):
        try:
            return fetch_status(settings, target)
        except (RaftlogError, OSError) as error:
            failure = error
    assert failure is not None
    raise failure


class MemberDigest:
    """One member's part. `error`: why it has none."""

    def __init__(self, settings: Settings, node_id: str, address: str, key: bytes, timeout: float) -> None:
        self.node_id = node_id
        self.status: dict[str, Any] = {}
        self.error = ""
        self._key = key
        self._timeout = timeout
        context = client_tls(settings) if address.startswith("wss://") else None
        self.client = NodeClient(address, settings.secret_keys, settings.cluster, ssl_context=context)

    @property
    def is_done(self) -> bool:
        return not self.error and self.status.get("state") == DONE

    @property
    def is_over(self) -> bool:
        return bool(self.error) or self.status.get("state") in (DONE, FAILED, ENDED)

    def ask(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        return self.client.request(name, {"key": self._key} | (arguments or {}), timeout=self._timeout)

    def about_row(self, table: str, key: list[Any]) -> Any:
        """`key` is of the row; that of the digest goes by another way."""
        return self.ask("digest_row", {"table": table, "row_key": key})

    def prepare(self, tables: list[str]) -> None:
        self._noting(lambda: self.ask("digest_prepare", {"tables": tables}))

    def look(self) -> None:
        def look() -> None:
            self.status = self.ask("digest_status")
            if self.status["state"] in (FAILED, ENDED):
                self.error = self.status["error"] or "it ended before it was done"

        if not self.is_over:
            self._noting(look)

    def close(self) -> None:
        if not self.error:
            with contextlib.suppress(RaftlogError, OSError):
                self.ask("digest_end")
        self.client.close()

    def _noting(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (RaftlogError, OSError) as error:
            self.error = f"{type(error).__name__}: {error}"


class ClusterDigest:
    """One run. Used as a context manager, which lets the nodes' snapshots go at the end."""

    def __init__(self, settings: Settings, status: Mapping[str, Any], tables: list[str], timeout: float) -> None:
        self._session = os.urandom(16)
        self._marker = client_payload(OPEN_SESSION, self._session, 0, 0, b"")
        key = self._marker[KEY]
        self.tables = tables
        self.voters = [name for name, member in status["members"].items() if member["voter"]]
        self.leader_id = str(status["leader_id"])
        addresses = {name: member["address"] for name, member in status["members"].items()}
        self.members = [MemberDigest(settings, name, addresses[name], key, timeout) for name in sorted(addresses)]

    def __enter__(self) -> ClusterDigest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._each(lambda member: member.close())

    def _each(self, work: Callable[[MemberDigest], object]) -> None:
        with ThreadPoolExecutor(max_workers=min(16, len(self.members))) as pool:
            list(pool.map(work, self.members))

    def begin(self) -> None:
        """Ask all nodes to wait for the marker, and propose it. Raises RaftlogError where no node could."""
        self._each(lambda member: member.prepare(self.tables))
        reasons = []
        for member in sorted(self.members, key=lambda member: member.node_id != self.leader_id):
            if not member.error:
                reason = propose(member.client, self._marker)
                if not reason:
                    return
                reasons.append(f"{member.node_id}: {reason}")
            else:
                reasons.append(f"{member.node_id}: {member.error}")
        raise RaftlogError(f"no entry at which to hash could be proposed ({'; '.join(reasons)})")

    def follow(self, on_progress: Callable[[list[MemberDigest]], None], timeout: float) -> None:
        """Until each has hashed or failed; who has not even begun `timeout` seconds after the marker is given up."""
        deadline = clock.monotonic() + timeout
        while True:
            self._each(lambda member: member.look())
            on_progress(self.members)
            if all(member.is_over for member in self.members):
                return
            if clock.monotonic() > deadline:
                for member in self.members:
                    if not member.is_over and member.status.get("state") != HASHING:
                        member.error = f"has not applied the entry to hash at within {timeout:g} s"
            clock.sleep(POLL)


def propose(client: NodeClient, payload: bytes) -> str:
    """Why the entry was not applied; "": it was."""
    answered = threading.Event()
    outcomes: list[Outcome] = []

    def done(answer: list[Outcome]) -> None:
        outcomes.extend(answer)
        answered.set()

    try:
        client.propose([payload], MARKER_TIMEOUT, done)
    except RaftlogError as error:
        return f"{type(error).__name__}: {error}"
    answered.wait(MARKER_TIMEOUT + 2.0)
    if not outcomes:
        return "no answer"
    if outcomes[0].status == APPLIED:
        return ""
    return ": ".join(msgspec.msgpack.decode(outcomes[0].result)) if outcomes[0].result else "refused"
