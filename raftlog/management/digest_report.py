"""What the sums of `raft digest` say: which nodes differ, in which tables and rows, since which entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from raftlog.exceptions import RaftlogError
from raftlog.management.digests import ClusterDigest, MemberDigest

MAX_ROWS: Final = 10  # differing rows of one table that are named
ALIKE, DIFFERENT, INCOMPLETE = 0, 1, 2

Told = dict[str, Any]


def report(digest: ClusterDigest) -> Told:
    """As plain data; `exit_code` is that of the verb."""
    done = [member for member in digest.members if member.is_done]
    reference, alike = find_reference(done, digest.voters, digest.leader_id)
    differences: list[Told] = []
    for member in done:
        differences += edited_tables(member)
    for member in done:
        if reference is not None and member is not reference:
            if member.node_id not in alike:
                differences += compare(reference, member, differences)
            differences += other_results(reference, member, differences)
    different = {each["node"] for each in differences}
    incomplete = [m.node_id for m in digest.members if m.node_id not in alike | different]
    voters_alike = len(alike & set(digest.voters))
    return {
        "index": reference.status["index"] if reference is not None else None,
        "reference": reference.node_id if reference is not None else None,
        "alike": sorted(alike),
        "majority": voters_alike > len(digest.voters) // 2,
        "nodes": {member.node_id: describe_member(member, alike, different) for member in digest.members},
        "tables": tables_of(reference),
        "differences": differences,
        "incomplete": incomplete,
        "exit_code": DIFFERENT if differences else INCOMPLETE if incomplete or reference is None else ALIKE,
    }


def describe_member(member: MemberDigest, alike: set[str], different: set[str]) -> Told:
    if not member.is_done:
        said = "did not answer"
    elif member.node_id in different:
        said = "differs"
    else:
        said = "alike" if member.node_id in alike else "alike so far"
    return {
        "verdict": said,
        "index": member.status.get("index"),
        "rows": member.status.get("rows"),
        "standing": member.status.get("standing", ""),
        "error": member.error,
    }


def tables_of(reference: MemberDigest | None) -> Told:
    found = reference.status["tables"] if reference is not None else {}
    return {name: {"rows": table["rows"], "sum": table["sum"].hex()} for name, table in found.items()}


def find_reference(done: list[MemberDigest], voters: list[str], leader_id: str) -> tuple[MemberDigest | None, set[str]]:
    """A node of the largest group that has equal rows at one index, and that group; voters count."""
    groups: dict[bytes, list[MemberDigest]] = {}
    for member in done:
        sums = sorted((name, table["sum"]) for name, table in member.status["tables"].items())
        groups.setdefault(msgspec.msgpack.encode((member.status["index"], sums)), []).append(member)

    def weight(group: list[MemberDigest]) -> tuple[int, int, bool]:
        names = [member.node_id for member in group]
        return sum(name in voters for name in names), -len(list(edited_tables(group[0]))), leader_id in names

    if not groups:
        return None, set()
    best = max(groups.values(), key=weight)
    return best[0], {member.node_id for member in best}


def edited_tables(member: MemberDigest) -> Iterator[Told]:
    """Tables whose rows are not those that this node's own log has made: somebody else has changed them."""
    for name, table in sorted(member.status["tables"].items()):
        if table["kept"] is not None and table["kept"] != table["sum"]:
            yield {
                "node": member.node_id,
                "table": name,
                "cause": "not by the log",
                "since": {"index": member.status["index"], "exact": False},
                "rows": [],
            }


def compare(reference: MemberDigest, member: MemberDigest, known: list[Told]) -> list[Told]:
    """A difference for each table whose rows are not the reference's; those `known` get their rows."""
    found = []
    ours, theirs = reference.status["tables"], member.status["tables"]
    at_one_index = reference.status["index"] == member.status["index"]
    since: Told | None = None
    for table in sorted(ours.keys() | theirs.keys()):
        if at_one_index and table in ours and table in theirs and ours[table]["sum"] == theirs[table]["sum"]:
            continue
        try:
            rows = differing_rows(reference, member, table)
        except (RaftlogError, OSError) as error:
            rows = [{"error": f"{type(error).__name__}: {error}"}]
        edited = next((each for each in known if (each["node"], each["table"]) == (member.node_id, table)), None)
        if edited is not None:
            edited["rows"] = rows
        elif rows or at_one_index:
            since = since or differing_since(reference, member)
            found.append({"node": member.node_id, "table": table, "rows": rows, **since})
    return found


def differing_since(reference: MemberDigest, member: MemberDigest) -> Told:
    """By the running hashes: since which entry the two differ; equal ones say that no entry was the cause."""

    begun: set[int] = set()

    def at(node: MemberDigest, index: int) -> bytes | None:
        answer = node.ask("fingerprint", {"index": index})
        begun.add(answer["since"])
        value: bytes | None = answer["at"]
        return value if len(begun) == 1 else None  # hashes that began at two entries say nothing

    upto = min(int(reference.status["index"]), int(member.status["index"]))
    try:
        index, exact, differ = first_difference(lambda i: at(reference, i), lambda i: at(member, i), upto)
    except (RaftlogError, OSError):
        return {"cause": "unknown", "since": {"index": upto, "exact": False}}
    return {"cause": "by an entry" if differ else "not by the log", "since": {"index": index, "exact": exact}}


def other_results(reference: MemberDigest, member: MemberDigest, known: list[Told]) -> list[Told]:
    """Rows that are alike do not say that an entry gave the same result on both: the running hashes do."""
    if any(each["node"] == member.node_id for each in known):
        return []
    since = differing_since(reference, member)
    if since["cause"] != "by an entry":
        return []
    return [{"node": member.node_id, "table": "", "rows": [], **since}]


def first_difference(
    ours: Callable[[int], bytes | None], theirs: Callable[[int], bytes | None], upto: int
) -> tuple[int, bool, bool]:
    """(index, whether it is that one and none before, whether they differ at all up to `upto`)."""
    here, there = ours(upto), theirs(upto)
    if here is None or there is None or here == there:
        return upto, False, False
    low, high, exact = 0, upto, False
    while high - low > 1:
        middle = (low + high) // 2
        here, there = ours(middle), theirs(middle)
        if here is None or there is None:
            low, exact = middle, False
        elif here == there:
            low, exact = middle, True
        else:
            high = middle
    return high, exact, True


# Rows


def differing_rows(reference: MemberDigest, member: MemberDigest, table: str) -> list[Told]:
    """The first rows of a table that differ, with both nodes' values."""
    found: list[Told] = []
    after = None
    while len(found) < MAX_ROWS:
        chunk = reference.ask("digest_chunk", {"table": table, "after": after})
        limits = {"table": table, "after": after, "upto": chunk["last"]}
        if member.ask("digest_sum", limits) != chunk["sum"]:
            found += differing_in(reference, member, limits, MAX_ROWS - len(found))
        after = chunk["last"]
        if after is None:
            break
    return found


def differing_in(reference: MemberDigest, member: MemberDigest, limits: Told, most: int) -> list[Told]:
    ours = {msgspec.msgpack.encode(key): digest for key, digest in reference.ask("digest_hashes", limits)}
    theirs = {msgspec.msgpack.encode(key): digest for key, digest in member.ask("digest_hashes", limits)}
    found: list[Told] = []
    for encoded in sorted(ours.keys() | theirs.keys()):
        if ours.get(encoded) != theirs.get(encoded) and len(found) < most:
            key = msgspec.msgpack.decode(encoded)
            row = differing_row(reference, member, limits["table"], key)
            if row is not None:
                found.append(row)
    return found


def differing_row(reference: MemberDigest, member: MemberDigest, table: str, key: list[Any]) -> Told | None:
    ours, theirs = (node.about_row(table, key) for node in (reference, member))
    if ours["hash"] == theirs["hash"]:
        return None
    lower = min(ours["applied"], theirs["applied"])
    written = max(ours["written"], theirs["written"])
    if ours["applied"] != theirs["applied"] and written > lower:
        return None  # an entry that only one of the two has applied explains it
    return {"key": key, "reference": ours["row"], "node": theirs["row"], "last_written": written}
