"""Django's own test suite, on the stock backend and on raftlog's, compared test by test.

    python -m tests.django_suite [--apps basic,lookup] [--log nodes|inline] [--processes] [--json]

It takes the source distribution of the installed Django. Every TestCase commits for real, through three real nodes.
"""
