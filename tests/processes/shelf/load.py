"""Writers of one app process: `python -m tests.processes.shelf.load KIND THREADS COUNT`, in a node's environment.

Prints a JSON object: how many increments were done, conflicts, what was raised, seconds of each thread, longest wait.
With COUNT 0 the threads go on until standard input ends.
"""

import json
import sys
import threading
import traceback

import django
from django.db import OperationalError, connection, transaction
from django.db.models import F

from raftlog import retry_on_conflict
from raftlog.runtime import clock


class Load:
    def __init__(self, kind, threads, count):
        self.work = getattr(self, kind)
        self.count = count
        self.stopped = threading.Event()
        self.conflicts = self.done = self.refused = 0
        self.errors, self.seconds, self.waits = [], [], []
        self.lock = threading.Lock()
        self.table = "shelf_book"
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(threads)]
        self.count_conflicts()

    def count_conflicts(self):
        from raftlog.backends.log import log_for

        log = log_for("default")
        commit = log.commit

        def counting(*arguments):
            verdict = commit(*arguments)
            with self.lock:
                self.conflicts += verdict.kind != 0
            return verdict

        log.commit = counting

    @staticmethod
    @retry_on_conflict
    def retried(work, *arguments):
        with transaction.atomic():
            work(*arguments)

    def increment(self, number):
        from tests.processes.shelf.models import Book

        Book.objects.filter(title="hot").update(hits=F("hits") + 1)

    def read_then_write(self, number):
        from tests.processes.shelf.views import hit

        self.retried(hit, None, "hot")

    def script(self, number):
        """As a Celery task does it: nobody would run it again."""
        from tests.processes.shelf.models import Book

        with transaction.atomic():
            Book.objects.create(title=f"{threading.get_ident()}-{clock.monotonic()}")
            Book.objects.filter(title="hot").update(hits=F("hits") + 1)

    def through_migrations(self, number):
        """Of code that knows the columns of the first migration, and finds the table under either name."""
        clock.sleep(0.01)  # leave the machine to the migration
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"UPDATE {self.table} SET hits = hits + 1 WHERE title = %s", [f"w{number}"])
                assert cursor.rowcount == 1
        except OperationalError as error:
            if "no such table" in str(error):
                self.table = "shelf_volume" if self.table == "shelf_book" else "shelf_book"
            elif "nothing was done" not in str(error):
                raise
            with self.lock:
                self.refused += 1
                self.done -= 1

    def run(self, number):
        began = clock.monotonic()
        try:
            while not self.stopped.is_set() and (not self.count or self.mine(number) < self.count):
                start = clock.monotonic()
                self.work(number)
                with self.lock:
                    self.done += 1
                    self.waits.append((clock.monotonic() - start, number))
        except Exception:  # noqa: BLE001  (the test prints it)
            self.errors.append(traceback.format_exc())
        finally:
            self.seconds.append(clock.monotonic() - began)
            connection.close()

    def mine(self, number):
        with self.lock:
            return sum(1 for _, thread in self.waits if thread == number)

    def main(self):
        for thread in self.threads:
            thread.start()
        print("started", flush=True)
        if not self.count:
            sys.stdin.read()
            self.stopped.set()
        for thread in self.threads:
            thread.join()
        waits = sorted(wait for wait, _ in self.waits) or [0.0]
        print(
            json.dumps(
                {
                    "done": self.done,
                    "conflicts": self.conflicts,
                    "refused": self.refused,
                    "slowest thread": round(max(self.seconds), 2),
                    "fastest thread": round(min(self.seconds), 2),
                    "median wait": round(waits[len(waits) // 2], 3),
                    "longest wait": round(waits[-1], 3),
                    "errors": self.errors[:2],
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    django.setup()
    Load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).main()
