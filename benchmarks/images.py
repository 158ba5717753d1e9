"""Images of the database: make, verify, install, beside `cp` and fsync of the same bytes in the same run.

    python -m benchmarks.images [--rows N] [--postgresql] [--json]

Rows are of 100 bytes or so, with an index, as Django makes them. A writer commits all the while that the image is made;
a reader asks for one row all the while that it is installed. Memory is this process's, beyond what it had before.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

FILL = {
    "sqlite": (
        "INSERT INTO warehouse_item (id, name, stock) WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL "
        "SELECT i + 1 FROM n WHERE i < {rows}) SELECT i, i || lower(hex(randomblob(20))), i FROM n",
        "INSERT INTO warehouse_shelf (id, code) SELECT id, substr(name, 1, 20) FROM warehouse_item",
    ),
    "postgresql": (
        "INSERT INTO warehouse_item (id, name, stock) SELECT i, i || md5(i::text), i FROM generate_series(1, {rows}) i",
        "INSERT INTO warehouse_shelf (id, code) SELECT id, substr(name, 1, 20) FROM warehouse_item",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    import django

    django.setup()
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), postgresql=options.postgresql):
        result = measure(options.rows, Path(folder))
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


@contextlib.contextmanager
def opened(folder: Path, *, postgresql: bool):
    from tests.replication import conftest

    if not postgresql:
        with conftest.sqlite_database(folder):
            yield
        return
    from tests.backends.postgresql import settings

    database = {**settings(0), "ENGINE": "django.db.backends.postgresql"}
    with conftest.default_database(database):
        conftest.make_tables()
        yield


def measure(rows: int, folder: Path) -> dict:
    from django.db import connection

    from raftlog.consensus.snapshot import LogBase
    from raftlog.replication import images
    from raftlog.replication.apply import DatabaseStateMachine
    from tests.replication.log import batch, opened

    machine = DatabaseStateMachine("default")
    machine.apply(batch(opened().payloads, 1))
    with connection.cursor() as cursor:
        for statement in FILL[connection.vendor]:
            cursor.execute(statement.format(rows=rows // 2))
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    image = folder / "image"
    Path("/proc/self/clear_refs").write_text("5")  # the peak is taken anew
    before = peak_memory()

    with busy("UPDATE warehouse_item SET stock = stock + 1 WHERE id = 1") as writes:
        made, header = timed(lambda: machine.make_image(image, lambda index, term: LogBase(index=index, term=term)))
    verified, _ = timed(lambda: images.verify_image(image))
    with busy("SELECT count(*) FROM warehouse_item WHERE id = 1") as reads:
        installed, _ = timed(lambda: machine.install(image))
    memory = peak_memory() - before
    copied, _ = timed(lambda: copy(image, folder / "copy"))
    assert header.total_rows >= rows
    machine.close()
    size = image.stat().st_size
    return {
        "vendor": connection.vendor,
        "rows": header.total_rows,
        "bytes": size,
        "cp_seconds": copied,
        "make_seconds": made,
        "verify_seconds": verified,
        "install_seconds": installed,
        "make_longest_write_ms": max(writes, default=0) * 1000,
        "writes_meanwhile": len(writes),
        "install_longest_read_ms": max(reads, default=0) * 1000,
        "memory_bytes": memory,
    }


def timed(work):
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", source, target], check=True)
    with target.open("r+b") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def busy(statement: str):
    """Another connection runs the statement, one after the other, with a pause; gives how long each took."""
    from django.db import connection, transaction

    stopping, took = threading.Event(), []

    def run() -> None:
        while not stopping.wait(0.005):
            started = time.perf_counter()
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)
            took.append(time.perf_counter() - started)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stopping.set()
        thread.join()


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def show(result: dict) -> None:
    floor = result["cp_seconds"]
    rows, mib = result["rows"], result["bytes"] / 2**20
    print(f"{result['vendor']}: {rows:,} rows, an image of {mib:,.0f} MiB; cp and fsync of it: {floor:.2f} s")
    for step in ("make", "verify", "install"):
        seconds = result[f"{step}_seconds"]
        print(f"  {step:8} {seconds:6.2f} s  {rows / seconds:12,.0f} rows/s  {seconds / floor:5.1f} × cp")
    print(
        f"  longest of {result['writes_meanwhile']} writes while it was made: {result['make_longest_write_ms']:.1f} ms"
    )
    print(f"  longest read while it was installed: {result['install_longest_read_ms']:.1f} ms")
    print(f"  memory of the process beyond what it had: {result['memory_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
