"""A project with one table and two commands, for `manage.py raft bench` and for tests of real processes."""
