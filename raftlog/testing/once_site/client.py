"""One application process: `python -m raftlog.testing.once_site.client`, an OnceWork as JSON on stdin.

It does its jobs in some order, each again and again until it has an answer, which it writes down. Whoever takes its
place after SIGKILL reads what is written, and does the others: also those that were done, but not answered.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from raftlog.runtime import clock

PAUSE: Final = 0.1  # seconds, after an attempt without an answer


class OnceWork(msgspec.Struct):
    """What to do. Jobs that begin with "c" are commands, the others transactions; `think` in seconds."""

    jobs: list[str]
    journal: str
    seed: int
    keyed: bool = True
    threads: int = 2
    think: float = 0.1


class Journal:
    """Lines of what was begun ("?", job), answered ("=", job, number) or left without answer ("!", job, error)."""

    def __init__(self, path: Path) -> None:
        # Whole lines at once: what was written outlives SIGKILL.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *parts: str) -> None:
        os.write(self._file, (" ".join(parts) + "\n").encode())


def read_journal(path: Path) -> list[list[str]]:
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


def answered(path: Path) -> dict[str, str]:
    """Job -> the number that its caller was told."""
    return {line[1]: line[2] for line in read_journal(path) if line[0] == "="}


def run_command(job: str, key: str) -> int:
    from raftlog.testing.once_site.commands import count

    number: int = count.with_options(idempotency_key=key).propose(job=job)
    return number


def run_transaction(job: str, key: str) -> int:
    from django.db import transaction

    import raftlog
    from raftlog.testing.once_site.commands import do

    if not key:
        with transaction.atomic():
            return do("transactions", job)
    with raftlog.idempotent(key, asked=job) as request:
        if not request.is_repeat:
            request.result = do("transactions", job)
    number: int = request.result
    return number


def work_on(jobs: list[str], work: OnceWork, journal: Journal, rng: random.Random) -> None:
    from django.db import OperationalError, connection

    import raftlog

    for job in jobs:
        run: Callable[[str, str], int] = run_command if job.startswith("c") else run_transaction
        while True:
            journal.write("?", job)
            try:
                number = run(job, job if work.keyed else "")
            except (raftlog.ProposalError, OperationalError) as error:
                journal.write("!", job, type(error).__name__)
                clock.sleep(PAUSE * rng.uniform(0.2, 1.8))
            else:
                journal.write("=", job, str(number))
                break
        clock.sleep(work.think * rng.uniform(0.2, 1.8))
    connection.close()


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=OnceWork)
    import django

    django.setup()
    rng = random.Random(work.seed)
    path = Path(work.journal)
    done = answered(path)
    journal = Journal(path)
    jobs = [job for job in work.jobs if job not in done]
    rng.shuffle(jobs)
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            work_on(jobs[number :: work.threads], work, journal, random.Random(f"{work.seed}/{number}"))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=body, args=(number,)) for number in range(work.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What is left are daemons and sockets: nothing to wait for.
    os._exit(1 if errors else 0)


if __name__ == "__main__":
    main()
