"""Batteries: each a Django app of its own, built on what `import raftlog` offers to everybody, and on nothing else.

Put the ones you want into INSTALLED_APPS ("raftlog.contrib.locks"); their tables come with `migrate`, through the log.
"""
