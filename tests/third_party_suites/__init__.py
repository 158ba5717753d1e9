"""The test suites of third-party apps, on the stock backend and on raftlog's, compared test by test.

    python -m tests.third_party_suites [guardian,reversion,drf] [--log nodes|inline] [--processes] [--json]

They come from the source distributions of django-guardian, django-reversion and djangorestframework, which hold their
tests. What those import beside Django is in raftlog's extra "suites". Every TestCase commits for real.
"""
