"""Whether something grows: the rule, and real processes that do and do not."""

import subprocess
import sys

import pytest

from benchmarks.usage import MIN_SAMPLES, Samples, disk, judge

STEP = 5.0  # seconds between samples


def series(values):
    return [(number * STEP, value) for number, value in enumerate(values)]


def word(measure, values):
    return judge(measure, series(values)).word


def test_a_steady_measure_is_bounded_and_a_rising_one_grows():
    assert word("resident memory", [80.0] * 60) == "bounded"
    assert word("resident memory", [80.0 + n for n in range(60)]) == "grows"


def test_what_rises_at_the_beginning_only_is_bounded():
    assert word("resident memory", [min(200.0, 60.0 + 10 * n) for n in range(60)]) == "bounded"


def test_a_sawtooth_is_bounded_also_where_its_last_tooth_is_unfinished():
    assert word("disk", [100.0 + 30 * (n % 10) / 10 for n in range(65)]) == "bounded"


def test_a_sawtooth_that_rises_grows():
    assert word("disk", [100.0 + 30 * (n % 10) / 10 + n for n in range(65)]) == "grows"


def test_descriptors_are_few_so_that_few_more_are_a_leak():
    assert word("descriptors", [40.0 + n // 5 for n in range(60)]) == "grows"
    assert word("descriptors", [40.0 + n % 5 for n in range(60)]) == "bounded"


def test_the_slope_is_said_for_an_hour():
    assert judge("resident memory", series([80.0 + n for n in range(60)])).slope == pytest.approx(720)


def test_too_few_samples_are_not_judged():
    assert judge("threads", series([3.0] * MIN_SAMPLES)) is None


LEAKS = {
    "resident memory": "kept.append(bytearray(b'x' * (1 << 20)))",
    "descriptors": "kept.append(open('/dev/null'))",
    "threads": "kept.append(threading.Thread(target=ending.wait)); kept[-1].start()",
    "": "len(bytearray(b'x' * (1 << 20)))",
}
PROCESS = """
import sys, threading
kept, ending = [], threading.Event()
print("ready", flush=True)
for line in sys.stdin:
    {leak}
    print("done", flush=True)
ending.set()
"""


def sampled(leak, count=36):
    """Samples of a process that does its leak once between two of them."""
    samples = Samples()
    code = PROCESS.format(leak=LEAKS[leak])
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        for number in range(count):
            samples.take(number * STEP, "one", process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
    return {measure: verdict.word for (_, measure), verdict in samples.verdicts().items()}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_process_that_leaks_grows_in_that_alone(leak):
    found = sampled(leak)
    assert set(found) == {"resident memory", "descriptors", "threads"}
    assert [measure for measure, word in found.items() if word == "grows"] == ([leak] if leak else [])


def test_a_process_that_was_started_again_begins_a_new_series():
    samples = Samples()
    for number in range(2):
        with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
            samples.take(number * STEP, "one", process.pid)
            process.stdin.close()
    assert [moment for moment, _ in samples.series["one", "resident memory"]] == [STEP]


def test_a_process_that_is_gone_has_no_sample():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    samples = Samples()
    samples.take(0.0, "one", process.pid)
    assert samples.series == {}


def test_what_files_take_on_disk_is_counted_as_allocated(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "full").write_bytes(b"x" * (3 << 20))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 3.0 <= disk(tmp_path) < 4.0
