"""The file around the database: checksums by chunk, the header, and at the very end a tail of fixed size.

    content     the database; then what the hooks packed
    digests     BLAKE2b, 16 bytes, of each chunk of the content
    header      msgpack of ImageHeader
    tail        magic, where the header begins, its length, BLAKE2b (16 bytes) of the header

A file whose end is missing has no tail, and is no image. Anybody can check a chunk as it arrives, by the digests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final

import msgspec

from raftlog.exceptions import ImageDamaged, ImageError
from raftlog.replication.images.header import CHUNK_BYTES, DIGEST_BYTES, FORMAT, ImageHeader
from raftlog.storage.filesystem import RealFileSystem

MAGIC: Final = b"raftlogI"
TAIL: Final = struct.Struct(">8sQI16s")
MAX_HEADER_BYTES: Final = 16 << 20

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]

_file_system: Final = RealFileSystem()
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(ImageHeader)


class _Format(msgspec.Struct):
    format: int


_format_decoder: Final = msgspec.msgpack.Decoder(_Format)


def ignore_progress(done: int, total: int) -> None:
    """For whoever does not want to know."""


def chunk_digest(chunk: bytes) -> bytes:
    return blake2b(chunk, digest_size=DIGEST_BYTES).digest()


def digest_of(digests: bytes) -> bytes:
    """ImageHeader.digest, from the digests of the chunks, joined."""
    return blake2b(digests, digest_size=32).digest()


def digest_content(file: IO[bytes], content_bytes: int, on_progress: Progress) -> bytes:
    """The digests of the chunks, joined, of what stands at the beginning of `file`."""
    digests = bytearray()
    file.seek(0)
    for offset in range(0, content_bytes, CHUNK_BYTES):
        size = min(CHUNK_BYTES, content_bytes - offset)
        chunk = file.read(size)
        if len(chunk) < size:
            raise ImageError(f"{file.name} became shorter while it was read")
        digests += chunk_digest(chunk)
        on_progress(offset + size, content_bytes)
    return bytes(digests)


def seal(file: IO[bytes], digests: bytes, header: ImageHeader) -> None:
    """Write what comes after the content. The file is an image once it is synced."""
    encoded = _encoder.encode(header)
    file.seek(header.content_bytes)
    file.write(digests)
    file.write(encoded)
    at = header.content_bytes + len(digests)
    file.write(TAIL.pack(MAGIC, at, len(encoded), chunk_digest(encoded)))
    file.flush()


def make_durable_file(path: Path) -> None:
    """The bytes of the file. Its name is another matter: rename_durably()."""
    file = _file_system.open(str(path))
    try:
        file.sync()
    finally:
        file.close()


def rename_durably(old: Path, new: Path) -> None:
    _file_system.rename(str(old), str(new))
    _file_system.sync_directory(str(new.absolute().parent))


# Reading


def read_header(path: str | Path) -> ImageHeader:
    """Raises ImageError where the file is no image that this raftlog can read, ImageDamaged, OSError."""
    with Path(path).open("rb") as file:
        return _read_header(file)[0]


def read_digests(path: str | Path) -> list[bytes]:
    """The digest of each chunk. Raises as read_header()."""
    with Path(path).open("rb") as file:
        header, joined = _read_header(file)
    return [joined[at : at + DIGEST_BYTES] for at in range(0, header.chunks * DIGEST_BYTES, DIGEST_BYTES)]


def verify_image(path: str | Path, on_progress: Progress = ignore_progress) -> ImageHeader:
    """Read the whole file, and compare. Raises as read_header(); ImageDamaged names the chunk."""
    with Path(path).open("rb") as file:
        header, joined = _read_header(file)
        file.seek(0)
        for number in range(header.chunks):
            start = number * header.chunk_bytes
            chunk = file.read(min(header.chunk_bytes, header.content_bytes - start))
            if chunk_digest(chunk) != joined[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
                raise ImageDamaged(
                    f"{path}: chunk {number + 1} of {header.chunks} (bytes {start} to {start + len(chunk) - 1}, "
                    f"{_part_of(header, start)}) is not what was written; take another copy of this image, or another "
                    "image"
                )
            on_progress(start + len(chunk), header.content_bytes)
    return header


def _part_of(header: ImageHeader, offset: int) -> str:
    if offset < header.database_bytes:
        return "in the database"
    names = [attachment.name for attachment in header.attachments if attachment.offset <= offset]
    return f"in what the hook {names[-1]!r} packed" if names else "after the database"


def _read_header(file: IO[bytes]) -> tuple[ImageHeader, bytes]:
    """Header and joined digests, checked against each other and against the length of the file."""
    length = file.seek(0, 2)
    file.seek(max(0, length - TAIL.size))
    tail = file.read(TAIL.size)
    if len(tail) < TAIL.size or not tail.startswith(MAGIC):
        raise ImageError(f"{file.name} is no image of raftlog, or its end is missing")
    _, at, size, digest = TAIL.unpack(tail)
    if size > MAX_HEADER_BYTES or at + size + TAIL.size != length:
        raise ImageDamaged(f"{file.name}: the header is said to stand at byte {at}, which the file's length forbids")
    file.seek(at)
    encoded = file.read(size)
    if chunk_digest(encoded) != digest:
        raise ImageDamaged(f"{file.name}: the header (bytes {at} to {at + size - 1}) is not what was written")
    header = _decode(file.name, encoded)
    file.seek(header.content_bytes)
    joined = file.read(at - header.content_bytes)
    if len(joined) != header.chunks * DIGEST_BYTES or digest_of(joined) != header.digest:
        raise ImageDamaged(
            f"{file.name}: the checksums (bytes {header.content_bytes} to {at - 1}) are not what was written"
        )
    return header, joined


def _decode(name: str, encoded: bytes) -> ImageHeader:
    try:
        found = _format_decoder.decode(encoded).format
        if found == FORMAT:
            return _decoder.decode(encoded)
    except msgspec.DecodeError as error:
        raise ImageDamaged(f"{name}: the header cannot be decoded: {error}") from error
    raise ImageError(f"{name} is an image of format {found}, this raftlog knows {FORMAT}; use the version that made it")
