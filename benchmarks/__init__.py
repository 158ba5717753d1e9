"""Figures of raftlog, each beside a floor or a peer of the same run: `python -m benchmarks --list`."""
