"""An application process beside a node: counts, adds and asks for what is limited, and prints what it was told.

Its arguments: its own name, and how often. What is in doubt is asked for; what was not done is done again.
"""

import json
import sys

import django

KEYS = 20
RATE = "40/d"


def settled(call):
    """The answer of `call`, which is applied once, whatever happens to leaders and nodes meanwhile."""
    import raftlog
    from raftlog import clock

    deadline = clock.monotonic() + 60
    while True:
        try:
            return call()
        except raftlog.OutcomeUnknown as unknown:
            return raftlog.outcome(unknown.proposal_id, 30)
        except raftlog.NotProposed:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(0.02)


def main(name, times):
    django.setup()
    from django.core.cache import cache

    import raftlog

    told = {"incr": [], "add": [], "allowed": 0}
    settled(lambda: cache.add("hits", 0, timeout=None))
    for n in range(times):
        answer = settled(lambda: cache.incr("hits"))
        told["incr"].append(answer[0] if isinstance(answer, list) else answer)
        key = f"winner-{n % KEYS}"
        answer = settled(lambda key=key: cache.add(key, name, timeout=None))
        if answer is True or answer == [True]:
            told["add"].append(key)
        answer = settled(lambda: raftlog.ratelimit("shared", RATE))
        told["allowed"] += answer["taken"] if isinstance(answer, dict) else bool(answer)
        if n == times // 4:
            print("underway", flush=True)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
