"""What `manage.py raft bench` measures: the floor of the machine, and three real nodes against it."""
