"""Images: the whole database at one index, in one checksummed file (paper §7; docs/internals/snapshots.md).

`make_image` writes one while the database is in use, `install_image` replaces a database by one; between the two it
is a file that may be copied, sent in chunks, or kept as a backup.
"""

from raftlog.replication.images.container import read_digests, read_header, verify_image
from raftlog.replication.images.header import CHUNK_BYTES, Attachment, ImageHeader
from raftlog.replication.images.operations import Describe, estimated_bytes, install_image, make_durable, make_image

__all__ = [
    "CHUNK_BYTES",
    "Attachment",
    "Describe",
    "ImageHeader",
    "estimated_bytes",
    "install_image",
    "make_durable",
    "make_image",
    "read_digests",
    "read_header",
    "verify_image",
]
