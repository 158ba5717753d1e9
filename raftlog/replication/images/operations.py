"""Making an image of a database that is in use, and putting one in its place: what is alike for both vendors."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

from django.db import connections

import raftlog
from raftlog.conf import load_settings
from raftlog.consensus.snapshot import LogBase
from raftlog.exceptions import ImageError
from raftlog.replication.images.container import (
    Progress,
    digest_content,
    digest_of,
    ignore_progress,
    make_durable_file,
    rename_durably,
    seal,
    verify_image,
)
from raftlog.replication.images.contents import Contents, Position
from raftlog.replication.images.header import Attachment, ImageHeader
from raftlog.replication.images.hooks import check_hooks, load_hooks, pack_all, unpack_all
from raftlog.replication.tables import SCHEMA_VERSION
from raftlog.runtime import clock

# (index, term) of the entry that the database has applied last -> what the log knows of it. Called once, before
# anything is copied; may raise, and then no image is made.
Describe = Callable[[int, int], LogBase]


class Vendor(Protocol):
    """What a vendor's module offers: see sqlite.py."""

    def make(self, alias: str, path: Path, started: Callable[[Position], None], on_progress: Progress) -> Contents: ...

    def install(self, alias: str, path: Path, header: ImageHeader, on_progress: Progress) -> Position: ...

    def make_durable(self, alias: str) -> int: ...

    def estimated_bytes(self, alias: str) -> int: ...


# Modules, imported when they are needed: psycopg need not be installed.
VENDORS: Final = {
    "sqlite": "raftlog.replication.images.sqlite",
    "postgresql": "raftlog.replication.images.postgresql",
}


def make_image(
    alias: str, path: str | Path, describe: Describe, *, on_progress: Progress = ignore_progress
) -> ImageHeader:
    """Write an image of `DATABASES[alias]` to `path`, which appears when it is complete and durable. Any thread.

    One consistent read transaction; writers are not held back. Raises ImageError, OSError, and what `describe` raises.
    """
    vendor, target = _vendor(alias), Path(path)
    part = target.with_name(f"{target.name}.part")
    bases: list[LogBase] = []
    hooks = load_hooks()

    def started(position: Position) -> None:
        if position.diverged:
            raise ImageError(f"no image is made of a database that differs from the majority's: {position.diverged}")
        bases.append(describe(position.index, position.term))

    part.unlink(missing_ok=True)
    try:
        contents = vendor.make(alias, part, started, lambda done, total: on_progress(done, 2 * total))
        with part.open("r+b") as file:
            database_bytes = file.seek(0, 2)
            attachments = pack_all(hooks, file)
            size = file.seek(0, 2)
            digests = digest_content(file, size, lambda done, total: on_progress(total + done, 2 * total))
            header = _header(alias, contents, bases[0], database_bytes, attachments, size, digests)
            seal(file, digests, header)
        make_durable_file(part)
        rename_durably(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return header


def _header(
    alias: str,
    contents: Contents,
    base: LogBase,
    database_bytes: int,
    attachments: list[Attachment],
    content_bytes: int,
    digests: bytes,
) -> ImageHeader:
    position = contents.position
    if (base.index, base.term) != (position.index, position.term):
        raise ImageError(
            f"the database stands at entry {position.index} of term {position.term}, but was described as entry "
            f"{base.index} of term {base.term}"
        )
    return ImageHeader(
        vendor=connections[alias].vendor,
        cluster=load_settings().cluster,
        cluster_id=position.cluster_id,
        base=base,
        tables_version=position.tables_version,
        raftlog=raftlog.__version__,
        server=contents.server,
        created_at=clock.wall_microseconds(),
        rows=contents.rows,
        database_bytes=database_bytes,
        attachments=attachments,
        content_bytes=content_bytes,
        digest=digest_of(digests),
    )


def install_image(alias: str, path: str | Path, *, on_progress: Progress = ignore_progress) -> ImageHeader:
    """Make `DATABASES[alias]` what the image holds, atomically; verified before, and its position checked after.

    Called while nothing is applied, on a thread that has no transaction open on `alias`. Raises ImageError, OSError:
    then the database is what it was.
    """
    vendor, source = _vendor(alias), Path(path)
    header = verify_image(source, lambda done, total: on_progress(done, 2 * total))
    check_installable(alias, source, header)
    hooks = load_hooks()
    check_hooks(hooks, header, source)
    with source.open("rb") as file:
        unpack_all(hooks, header, file)
    position = vendor.install(alias, source, header, lambda done, total: on_progress(total + done, 2 * total))
    if (position.cluster_id, position.index, position.term) != (header.cluster_id, header.index, header.term):
        raise ImageError(
            f"after {path} was installed the database stands at entry {position.index} of term {position.term}, and "
            f"not at entry {header.index} of term {header.term}"
        )
    return header


def check_installable(alias: str, path: Path, header: ImageHeader) -> None:
    """Raises ImageError where this node cannot use the image, whatever it holds."""
    vendor = connections[alias].vendor
    if header.vendor != vendor:
        raise ImageError(f"{path} is an image of {header.vendor}, DATABASES[{alias!r}] is {vendor}")
    if header.tables_version > SCHEMA_VERSION:
        raise ImageError(
            f"{path} has raftlog's tables in version {header.tables_version}, this raftlog knows {SCHEMA_VERSION}; "
            f"install raftlog {header.raftlog} or newer"
        )


def make_durable(alias: str) -> int:
    """Make what `DATABASES[alias]` has applied safe from a power cut, and say up to which index. Any thread."""
    return _vendor(alias).make_durable(alias)


def estimated_bytes(alias: str) -> int:
    """About how large an image of `DATABASES[alias]` is. Any thread. Raises ImageError, OSError."""
    return _vendor(alias).estimated_bytes(alias)


def _vendor(alias: str) -> Vendor:
    name = connections[alias].vendor
    if name not in VENDORS:
        raise ImageError(f"DATABASES[{alias!r}] is {name}; there are images of {' and '.join(VENDORS)}")
    return cast(Vendor, importlib.import_module(VENDORS[name]))
