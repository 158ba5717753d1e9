"""A project whose tables show each lost, doubled or misplaced command, for `python -m raftlog.testing.torture`."""
