"""Django's own test suite, on the stock backend and on raftlog's, compared test by test.

    python -m tests.django_suite [--apps basic,lookup] [--engine sqlite3] [--memory] [--source DIR] [--json]

`__main__` fetches the source distribution and compares; `child` is one run in a process of its own.
"""
