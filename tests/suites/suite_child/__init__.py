"""One run of a suite, in a process of its own: what its tests commit is committed, and goes through a log."""
