"""The operating system's files do what the protocol says."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from raftlog.exceptions import DirectoryInUse
from raftlog.storage.filesystem import RealFileSystem

filesystem = RealFileSystem()


def test_create_reserves_zeros_and_is_exclusive(tmp_path):
    path = str(tmp_path / "a")
    file = filesystem.create(path, 3 << 20)
    assert file.size() == 3 << 20
    assert file.pread(3 << 20, 0) == bytes(3 << 20)
    assert os.stat(path).st_blocks * 512 >= 3 << 20
    with pytest.raises(FileExistsError):
        filesystem.create(path, 10)
    file.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_create_writes_zeros_where_space_cannot_be_reserved(tmp_path, monkeypatch, number):
    def refuse(descriptor, offset, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = filesystem.create(str(tmp_path / "a"), (2 << 20) + 5)
    assert file.pread(3 << 20, 0) == bytes((2 << 20) + 5)
    file.close()


def test_create_without_room_leaves_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|No space") as caught:
            filesystem.create(str(tmp_path / "a"), 4 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert os.listdir(tmp_path) == []


def test_writes_are_read_back_and_leave_zeros_behind_them(tmp_path):
    file = filesystem.create(str(tmp_path / "a"), 4 << 20)
    expected = bytearray(4 << 20)
    for number, offset in enumerate([0, 512, 1024, (1 << 20) + 4096, (2 << 20) - 512, (4 << 20) - 512]):
        data = bytes([number + 1]) * 512
        file.pwrite(data, offset)
        expected[offset : offset + 512] = data
        assert file.pread(4 << 20, 0) == expected
    file.sync()
    file.close()
    file = filesystem.open(str(tmp_path / "a"), writable=True)
    file.pwrite(b"y" * 1024, 2 << 20)
    expected[2 << 20 : (2 << 20) + 1024] = b"y" * 1024
    assert file.pread(4 << 20, 0) == expected
    assert file.size() == 4 << 20
    file.close()


def test_zeros_ahead_never_overwrite_what_another_opening_wrote(tmp_path):
    path = str(tmp_path / "a")
    file = filesystem.create(path, 4 << 20)
    file.pwrite(b"a" * 512, 0)
    file.pwrite(b"b" * 512, 3 << 20)
    file.close()
    file = filesystem.open(path, writable=True)
    file.pwrite(b"c" * 512, (1 << 20) + 512)
    file.pwrite(b"d" * 512, 2 << 20)
    assert file.pread(512, 0) == b"a" * 512
    assert file.pread(512, 3 << 20) == b"b" * 512
    file.close()


def test_read_at_the_end_is_short(tmp_path):
    file = filesystem.create(str(tmp_path / "a"), 100)
    assert len(file.pread(80, 50)) == 50
    assert file.pread(10, 100) == b""
    file.close()


def test_truncate(tmp_path):
    file = filesystem.create(str(tmp_path / "a"), 1000)
    file.pwrite(b"x" * 1000, 0)
    file.truncate(10)
    file.truncate(20)
    file.pwrite(b"z", 15)
    assert file.pread(100, 0) == b"x" * 10 + bytes(5) + b"z" + bytes(4)
    file.close()


def test_close_is_idempotent_and_final(tmp_path):
    file = filesystem.create(str(tmp_path / "a"), 10)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.pread(1, 0)


def test_directory_operations(tmp_path):
    path = str(tmp_path / "x" / "y")
    filesystem.make_directory(path)
    filesystem.make_directory(path)
    filesystem.create(f"{path}/b", 0).close()
    filesystem.create(f"{path}/a", 0).close()
    filesystem.rename(f"{path}/b", f"{path}/c")
    filesystem.sync_directory(path)
    assert filesystem.list_directory(path) == ["a", "c"]
    filesystem.remove(f"{path}/a")
    assert not filesystem.exists(f"{path}/a")
    assert filesystem.exists(f"{path}/c")
    with pytest.raises(FileNotFoundError):
        filesystem.open(f"{path}/a")


def test_lock_is_exclusive_and_names_its_holder(tmp_path):
    lock = filesystem.lock(str(tmp_path / "lock"))
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
        filesystem.lock(str(tmp_path / "lock"))
    lock.release()
    lock.release()
    filesystem.lock(str(tmp_path / "lock")).release()
