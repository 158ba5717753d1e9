"""Test suites of others, run on a stock backend and on raftlog's, and compared test by test.

`runner` starts the runs and compares; `suite_child` is what is inside such a run, in a process of its own. The
latter is a package by itself, since the suites have packages named `tests` of their own.
"""
