"""Real node processes under real faults: `python -m raftlog.testing.torture --minutes 5`.

Client processes write and read through the nodes of a cluster while a nemesis kills, pauses, cuts off and starves
them of disk, after a schedule drawn from a seed. Then everything is healed, and checked: no acknowledged
write lost, none applied twice, all databases equal, and what the clients saw linearizable.
"""
