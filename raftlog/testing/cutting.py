"""A proxy before a node's Unix socket, which cuts the connections of its clients when it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 64 * 1024


class CuttingProxy:
    """Listens at `path`, and carries bytes to the socket at `target` and back. Thread-safe."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = str(target)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, name="cutting-proxy", daemon=True)
        self._thread.start()

    def cut(self) -> int:
        """End all connections that there are, whatever is on its way; returns how many."""
        with self._lock:
            ended = len(self._open) // 2
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return ended

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # close()
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(self._target)
            except OSError:  # no node is there now
                far.close()
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), name="cutting-pump", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """One way. Its end is that of the other way too; each closes the socket from which it reads."""
        try:
            while data := source.recv(CHUNK_BYTES):
                sink.sendall(data)
        except OSError:  # cut, or one of the two ends is gone
            data = b""
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
            source.close()
