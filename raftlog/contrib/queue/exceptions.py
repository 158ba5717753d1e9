"""What the task queue raises. A class's docstring is what it means to the one who catches it."""

from __future__ import annotations

from raftlog.exceptions import RaftlogError


class ClaimLost(RaftlogError):
    """This attempt's claim has ended: its time was up and the task was given to another worker, or it was finished.

    Whatever this attempt wrote in a task_transaction() was rolled back; its completion is refused.
    """


class NoSuchTask(RaftlogError):
    """No task of this name is known to this process's code: install the code that has it, or import its module."""
