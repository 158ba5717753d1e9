"""Raft as a state machine without I/O: no clock, no threads, no files, no logging, no global randomness.

Everything is deterministic in its inputs: the same calls give the same outputs. Time (`now`,
monotonic seconds) and randomness (a seeded `random.Random`) are arguments.

| file | what it holds | where it comes from |
| --- | --- | --- |
| messages.py | the RPCs, with the paper's field names | Figure 2 |
| entries.py, log.py | entries as slices of bytes; the log as the rules see it | §5.3 |
| state.py, server_state.py | the "State" box | Figure 2 |
| configuration.py, quorum.py | members; joint-aware majorities | §6 |
| progress.py | a leader's view of one follower | §5.3 |
| roles.py, timing.py | conversions of role; deadlines | §5.1, §5.2, dissertation §6.2 |
| request_vote.py | elections, pre-vote, the first election of a cluster | §5.2, §5.4.1, dissertation §9.6 |
| append_entries.py | replication, heartbeats, the commit rule | §5.3, §5.4.2 |
| reads.py | ReadIndex | dissertation §6.4 |
| timeout_now.py | leadership transfer | dissertation §3.10 |
| raft.py | class Raft: one short method for each event | |
| invariants.py | what is always true, as code | Figure 3 |
"""
