"""Django's own tests of cache backends (BaseCacheTests), on RaftlogCache and on Django's LocMemCache, compared.

    python -m tests.cache_suite [--log nodes|inline|processes] [--json]

It takes the source distribution of the installed Django. Every write is an entry of the log.
"""
