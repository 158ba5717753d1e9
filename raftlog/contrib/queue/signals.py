"""Django signals of the queue.

`task_finished`: sender QueuedTask; `task` (QueuedTask: SUCCESSFUL or FAILED). Sent inside the database transaction that
    finishes the task, once for each task. Where a command finishes it, that is in the entry, on every node: receivers
    may write to the database, deterministically, and must not do more (`raftlog.is_applying()` is True). For a
    transactional task it is the task's own transaction, on the worker's host alone.
"""

from __future__ import annotations

from django.dispatch import Signal

task_finished = Signal()
