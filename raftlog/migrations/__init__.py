"""Of IdempotencyKey alone: raftlog makes its other tables by itself (replication/tables.py)."""
