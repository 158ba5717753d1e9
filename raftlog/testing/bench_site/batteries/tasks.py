"""A task that does nothing: what is measured is the queue."""

from raftlog.contrib.queue import task


@task
def nothing() -> int:
    return 1
