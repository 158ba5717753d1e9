"""Found by itself, as the admin finds admin.py."""

from raftlog.contrib.schedule import scheduled


@scheduled(every=1, catch_up="all")
def tick():
    return "tock"
