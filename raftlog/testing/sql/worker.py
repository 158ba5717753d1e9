"""A thread of an application, in virtual time: it runs only while the simulation waits for it.

A blocking call of the code under test (a commit, the turn) parks its thread with a request; the simulation
answers the request by an event, and resumes the thread with the answer. One thread runs at any time, so a run is as
deterministic as without threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

here = threading.local()


class Died(BaseException):
    """The process of this thread is no more. Nothing catches it."""


class Worker:
    """One thread. All methods but park() belong to the simulation's own thread."""

    def __init__(self, main: Callable[[Worker], None]) -> None:
        self._main = main
        # Two turnstiles: bare locks, each released by the other side.
        self._may_run = _closed()
        self._has_parked = _closed()
        self._answer: Any = None
        self._request: Any = None
        self._is_dying = False
        self._error: BaseException | None = None
        self.has_ended = False
        self._thread = threading.Thread(target=self._run, name="simulated-application", daemon=True)
        self._thread.start()

    def resume(self, answer: Any = None) -> Any:
        """Let it run until it parks again; returns what it asks for. Raises what its code raised and did not catch."""
        self._answer = answer
        self._may_run.release()
        self._has_parked.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._request

    def kill(self) -> None:
        """End it where it is parked; what it does on the way out, it does now."""
        if not self.has_ended:
            self._is_dying = True
            self.resume()
            self._thread.join()

    def park(self, request: Any) -> Any:
        """From the worker's own thread: wait for the answer to a request. Raises Died."""
        if self._is_dying:
            raise Died
        self._request = request
        self._has_parked.release()
        self._may_run.acquire()
        if self._is_dying:
            raise Died
        return self._answer

    def _run(self) -> None:
        here.worker = self
        self._may_run.acquire()
        try:
            if not self._is_dying:
                self._main(self)
        except Died:
            self._request = None
        except BaseException as error:  # noqa: BLE001  (raised again in the simulation's thread)
            self._error = error
        finally:
            self.has_ended = True
            self._has_parked.release()


def _closed() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
