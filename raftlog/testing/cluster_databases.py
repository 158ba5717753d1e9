"""One alias, as many databases as there are nodes: which of them a connection is made to depends on the thread.

The threads of a node have its database, as its process would; every other thread has that of the host that it works
on, which `on()` changes. All start as copies of one file, migrated once in each process.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

STOCK: Final = "django.db.backends.sqlite3"
REPLICATED: Final = "raftlog.backends.sqlite3"
MEMORY: Final = Path("/dev/shm")  # where there is one, nothing waits for a disk

_NODE_THREAD = re.compile(r"raftlog-(\w+)-")
_templates: dict[str, Path] = {}
_templates_lock = threading.Lock()


def make_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="raftlog-", dir=MEMORY if MEMORY.is_dir() else None))


class NodeDatabases:
    """`alias`, redirected while it is entered. Thread-safe but for open and close.

    Args:
        engine: ENGINE of the databases; "": that of the project where it is one for SQLite, else raftlog's.
    """

    def __init__(self, alias: str, nodes: list[str], folder: Path, engine: str = "") -> None:
        self.alias = alias
        self.paths = {node: folder / f"{node}.sqlite3" for node in nodes}
        own = connections.settings[alias]
        self._settings = dict(own)
        self.engine = engine or (own["ENGINE"] if own["ENGINE"] in (STOCK, REPLICATED) else REPLICATED)
        if self.engine not in (STOCK, REPLICATED):
            raise ValueError(f"engine is {engine!r}; a cluster in one process has {REPLICATED!r} or {STOCK!r}")
        # The node of threads that have not said on which they are.
        self.default = nodes[0]
        self._here = threading.local()
        self._made: list[BaseDatabaseWrapper] = []

    def open(self) -> None:
        template = template_for(self.alias, self._settings)
        for path in self.paths.values():
            shutil.copyfile(template, path)
        self._before = connections[self.alias]
        del connections[self.alias]
        self._create = connections.create_connection
        connections.create_connection = self._create_connection  # type: ignore[method-assign]
        forget_content_types()

    def close(self) -> None:
        connections.create_connection = self._create  # type: ignore[method-assign]
        for wrapper in self._made:
            wrapper.inc_thread_sharing()  # it may be another thread's, which has ended
            wrapper.close()
        connections[self.alias] = self._before
        forget_content_types()

    def node_here(self) -> str:
        """The node whose database this thread's connection is to."""
        node: str = connections[self.alias].raft_node  # type: ignore[attr-defined]
        return node

    @contextmanager
    def on(self, node: str) -> Iterator[None]:
        """Inside, this thread works on the host of `node`."""
        kept: dict[str, BaseDatabaseWrapper] = self._here.__dict__.setdefault("connections", {})
        before = connections[self.alias]
        kept.setdefault(self.node_here(), before)
        if node not in kept:
            kept[node] = self._connect(node)
        connections[self.alias] = kept[node]
        self._here.depth = self._depth() + 1
        try:
            yield
        finally:
            self._here.depth -= 1
            connections[self.alias] = before

    def _depth(self) -> int:
        depth: int = getattr(self._here, "depth", 0)
        return depth

    def leave(self, node: str, to: str) -> None:
        """`node` is gone: who has not chosen it works on `to` from now on. Of open connections, this thread's only."""
        if self.default == node:
            self.default = to
        if not self._depth() and self.node_here() == node:
            kept = self._here.__dict__.setdefault("connections", {})
            kept[node] = connections[self.alias]
            if to not in kept:
                kept[to] = self._connect(to)
            connections[self.alias] = kept[to]

    def _create_connection(self, alias: str) -> BaseDatabaseWrapper:
        if alias != self.alias:
            return self._create(alias)
        found = _NODE_THREAD.match(threading.current_thread().name)
        if found and found[1] in self.paths:
            return self._wrapper(found[1])
        return self._connect(self.default)

    def _connect(self, node: str) -> BaseDatabaseWrapper:
        wrapper = self._wrapper(node)
        self._made.append(wrapper)
        return wrapper

    def _wrapper(self, node: str) -> BaseDatabaseWrapper:
        wrapper = make_wrapper(self.alias, self._settings, self.engine, self.paths[node])
        wrapper.raft_node = node  # type: ignore[attr-defined]
        return wrapper


def make_wrapper(alias: str, settings: dict[str, Any], engine: str, path: Path) -> BaseDatabaseWrapper:
    """A connection to the SQLite file at `path` with the options that the project's own SQLite has."""
    options = settings["OPTIONS"] if settings["ENGINE"] in (STOCK, REPLICATED) else {}
    if engine == STOCK:
        options = {key: value for key, value in options.items() if key not in ("isolation", "turn_limit")}
    made = {**settings, "ENGINE": engine, "NAME": str(path), "OPTIONS": options}
    wrapper: BaseDatabaseWrapper = load_backend(engine).DatabaseWrapper(made, alias)
    return wrapper


def forget_content_types() -> None:
    """What is cached of their ids holds for one database only."""
    if apps.is_installed("django.contrib.contenttypes"):
        from django.contrib.contenttypes.models import ContentType

        ContentType.objects.clear_cache()


@contextmanager
def redirected(alias: str, wrapper: BaseDatabaseWrapper) -> Iterator[None]:
    """Inside, `alias` is `wrapper` in this thread, which is closed at the end."""
    before = connections[alias]
    connections[alias] = wrapper
    forget_content_types()
    try:
        yield
    finally:
        wrapper.close()
        connections[alias] = before
        forget_content_types()


def template_for(alias: str, settings: dict[str, Any]) -> Path:
    """A file that holds the project's migrated tables, and nothing of raftlog's. Made once in a process."""
    with _templates_lock:
        if alias not in _templates:
            folder = make_folder()
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            path = folder / "template.sqlite3"
            with redirected(alias, make_wrapper(alias, settings, STOCK, path)):
                call_command("migrate", database=alias, run_syncdb=True, interactive=False, verbosity=0)
            _templates[alias] = path
        return _templates[alias]
