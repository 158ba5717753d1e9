"""A process that runs cases under conditions: `python -m raftlog.testing.determinism.worker TASK ANSWER`.

TASK and ANSWER are JSON files (checker.py writes and reads them). Each run has a fresh copy of its case's database.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from raftlog.testing.determinism import sources

MAX_STATEMENTS: Final = 5_000
KEYS_AHEAD: Final = 1_000
_READS: Final = ("SELECT", "WITH")


def main(task_path: str, answer_path: str) -> None:
    task = json.loads(Path(task_path).read_text())
    sources.install()
    sys.path[:] = task["sys_path"]
    import django

    django.setup()
    # Django sets TZ to settings.TIME_ZONE: what runs on a host whose settings say otherwise is meant here.
    os.environ["TZ"] = task["zone"]
    time.tzset()
    for module in task["modules"]:
        importlib.import_module(module)
    answers = [run(task, number, **of_run) for number, of_run in enumerate(task["runs"])]
    Path(answer_path).write_text(json.dumps(answers))


def run(task: dict[str, Any], number: int, case: int, conditions: list[str], site: str) -> dict[str, Any]:
    """One run of one case: how it ended, what it wrote, which lines asked what."""
    of_case = task["cases"][case]
    path = Path(task["folder"]) / f"{task['name']}-{number}.sqlite3"
    if "memory" in conditions:
        shutil.copyfile(of_case["database"], path)
        attempt(task["alias"], of_case, path, [], "")
    shutil.copyfile(of_case["database"], path)
    return {"database": str(path), **attempt(task["alias"], of_case, path, conditions, site)}


def attempt(alias: str, of_case: dict[str, Any], path: Path, conditions: list[str], site: str) -> dict[str, Any]:
    from django.db import connections, transaction

    from raftlog.replication import calling, codec
    from raftlog.replication.context import CommandContext, applying
    from raftlog.replication.registry import registry
    from raftlog.testing.cluster_databases import STOCK, make_wrapper, redirected
    from raftlog.testing.inline import check_whole

    body = codec.decode_body(bytes.fromhex(of_case["body"]))
    name, version = body.name, body.version
    command = registry.get(name, version)
    if command is None:
        raise LookupError(f"the command {name!r} version {version} is in none of this project's modules `commands`")
    context = CommandContext(index=of_case["index"], term=of_case["term"], log_time=of_case["log_time"], command=name)
    wrapper: Any = make_wrapper(alias, dict(connections.settings[alias]), STOCK, path)
    statements: list[list[Any]] = []
    returned = Returned(command.function)
    with redirected(alias, wrapper):
        wrapper.ensure_connection()
        if "keys" in conditions:
            set_keys_ahead(wrapper.connection)
        applying.command = context
        under = sources.Run(conditions, site)
        try:
            with transaction.atomic(using=alias), wrapper.execute_wrapper(traced(under, wrapper, statements)), under:
                install_functions(wrapper.connection)
                with returned:
                    result = calling.run(alias, command, context, body).result
                ended = ["returned", repr(codec.decode(result)), result.hex(), returned.site]
                check_whole(alias)
                wrapper.run_on_commit = []  # effects outside the database are not what is checked
        except Exception as error:  # noqa: BLE001  (how a command ends is what is compared)
            ended = ["raised", f"{type(error).__name__}: {error}", "", raised_at(error)]
        finally:
            applying.command = None
    sites = {condition: sorted(filter(None, found)) for condition, found in under.sites.items()}
    return {"ended": ended, "sites": sites, "statements": statements}


class Returned:
    """While entered, sees at which line the command's function returns."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._code = inspect.unwrap(function).__code__
        self.site = f"{self._code.co_filename}:{self._code.co_firstlineno}"

    def __enter__(self) -> None:
        sys.setprofile(self._see)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code is self._code:
            self.site = f"{self._code.co_filename}:{frame.f_lineno}"


def raised_at(error: BaseException) -> str:
    """The innermost line of the project that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if sources.is_project(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def traced(under: sources.Run, wrapper: Any, statements: list[list[Any]]) -> Callable[..., Any]:
    """Notes each statement with its line, and reverses rows that no ORDER BY puts in order."""

    def trace(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        if len(statements) < MAX_STATEMENTS:
            statements.append([sql, repr(params), list(sources.sites_here())])
        if not sql.lstrip().upper().startswith(_READS):
            return execute(sql, params, many, context)
        with reversed_rows(wrapper.connection, under.holds("rows")):
            return execute(sql, params, many, context)

    return trace


@contextlib.contextmanager
def reversed_rows(connection: sqlite3.Connection, is_reversed: bool) -> Iterator[None]:
    connection.execute(f"PRAGMA reverse_unordered_selects = {'ON' if is_reversed else 'OFF'}")
    yield


def set_keys_ahead(connection: sqlite3.Connection) -> None:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
    known = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    for (name,) in connection.execute(sql).fetchall():
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, known.get(name, 0) + KEYS_AHEAD))
    connection.commit()


def install_functions(connection: sqlite3.Connection) -> None:
    """SQL's own clock and chance go through the same sources."""
    plain = sqlite3.connect(":memory:")

    def source() -> sources.Run:
        run = sources.current()
        return run if run is not None else sources.Run([], "")

    def moment() -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(source().time()))

    def dated(function: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            is_now = [isinstance(value, str) and value.lower() == "now" for value in arguments]
            implied = not arguments if function != "strftime" else len(arguments) == 1
            given = [moment() if now else value for now, value in zip(is_now, arguments, strict=True)]
            given += [moment()] if implied else []
            marks = ", ".join("?" * len(given))
            return plain.execute(f"SELECT {function}({marks})", given).fetchone()[0]

        return call

    for function in ("strftime", "datetime", "date", "time", "julianday"):
        connection.create_function(function, -1, dated(function))
    connection.create_function("random", 0, lambda: source().generator("random").getrandbits(62))
    connection.create_function("randomblob", 1, lambda size: source().generator("random").randbytes(size))
    connection.create_function("current_timestamp", 0, moment)
    connection.create_function("current_date", 0, lambda: moment()[:10])
    connection.create_function("current_time", 0, lambda: moment()[11:])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
