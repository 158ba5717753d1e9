"""What an image says of itself.

The header stands at the end of the file, where whoever wrote the rest knows it all; what is before it is the
database as its vendor keeps it, so that an image of SQLite is a database that `sqlite3` opens.
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftlog.consensus.snapshot import LogBase

FORMAT: Final = 1
CHUNK_BYTES: Final = 256 << 10  # each has a checksum of its own
DIGEST_BYTES: Final = 16  # of a chunk


class Attachment(msgspec.Struct, frozen=True):
    """State outside the database, as a hook packed it: bytes `offset` to `offset + size` of the file."""

    name: str
    offset: int
    size: int


class ImageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Fields may be added; whoever reads an image ignores those that it does not know. `format` says what it must know.

    `digest` stands for the whole content: two images with one digest are the same bytes.
    """

    format: int = FORMAT
    vendor: str  # "sqlite" or "postgresql"
    cluster: str  # RAFTLOG["CLUSTER"] where it was made
    cluster_id: str  # as the database has it
    base: LogBase  # the entry that the database has applied last
    tables_version: int  # of raftlog's own tables (tables.SCHEMA_VERSION)
    raftlog: str  # version that made it
    server: str  # version of SQLite or PostgreSQL that made it
    created_at: int  # wall clock, microseconds since the epoch; for people
    rows: dict[str, int]  # of each table, raftlog's own included
    database_bytes: int  # from the beginning of the file
    attachments: list[Attachment]
    content_bytes: int  # database and attachments
    chunk_bytes: int = CHUNK_BYTES
    digest: bytes  # BLAKE2b, 32 bytes, over the checksums of the chunks

    @property
    def index(self) -> int:
        return self.base.index

    @property
    def term(self) -> int:
        return self.base.term

    @property
    def chunks(self) -> int:
        return -(-self.content_bytes // self.chunk_bytes)

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())
