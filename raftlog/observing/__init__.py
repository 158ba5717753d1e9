"""What people look at: the cluster as a whole, its elections, what was applied lately, numbers for Prometheus.

Everything here only looks. It is gathered on the node, where it costs nothing while nobody looks, and read by the
admin's pages, `raft status` and the metrics endpoint, in whichever process of the host they run.
"""
