"""Whether something grows: the rule, and real processes that do and do not."""

import subprocess
import sys

import pytest

from benchmarks.usage import ALLOWED, MIN_SAMPLES, Samples, disk, judge

STEP = 5.0  # seconds between samples
HOUR = round(3600 / STEP)  # samples


def series(values):
    return [(number * STEP, value) for number, value in enumerate(values)]


def rising(by_an_hour, count=360):
    return [80.0 + by_an_hour * n / HOUR for n in range(count)]


GROWTH = [
    ("it is steady", "resident memory", rising(0), "bounded"),
    ("it rises by little", "resident memory", rising(0.9 * ALLOWED["resident memory"][1]), "bounded"),
    ("it rises by more", "resident memory", rising(1.1 * ALLOWED["resident memory"][1]), "grows"),
    ("it falls", "resident memory", rising(-100), "bounded"),
    ("it warms up for half of its life", "resident memory", [min(140.0, 50 + n / 2) for n in range(360)], "bounded"),
    ("it begins to rise in the second half", "resident memory", [max(50.0, n / 2) for n in range(360)], "grows"),
    ("a sawtooth", "disk", [100.0 + 3 * (n % 10) for n in range(365)], "bounded"),
    ("a sawtooth that rises", "disk", [100.0 + 3 * (n % 10) + n / 10 for n in range(365)], "grows"),
    ("a few high samples", "resident memory", [80.0 + 50 * (n % 40 == 39) for n in range(360)], "bounded"),
    ("a descriptor every minute", "descriptors", [40.0 + n // 12 for n in range(360)], "grows"),
    ("descriptors come and go", "descriptors", [40.0 + n % 5 for n in range(360)], "bounded"),
]


@pytest.mark.parametrize(("measure", "values", "word"), [row[1:] for row in GROWTH], ids=[row[0] for row in GROWTH])
def test_the_slope_of_the_second_half_of_a_life_decides(measure, values, word):
    assert judge(measure, series(values), len(values) * STEP).word == word


def test_the_slope_is_said_for_an_hour():
    assert judge("resident memory", series(rising(720)), 1800).slope == pytest.approx(720)


@pytest.mark.parametrize(
    ("samples", "run", "why"), [(100, 1800, "8.2 of 30.0 minutes"), (2 * MIN_SAMPLES - 3, 60, "11")]
)
def test_a_life_shorter_than_half_of_the_run_or_of_few_samples_is_not_judged(samples, run, why):
    verdict = judge("threads", series([3.0] * samples), run)
    assert (verdict.word, verdict.slope) == ("not judged", None)
    assert why in verdict.why


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
    return {measure: verdict.word for (_, measure), verdict in samples.verdicts(count * STEP).items()}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_process_that_leaks_grows_in_that_alone(leak):
    found = sampled(leak)
    assert set(found) == {"resident memory", "descriptors", "threads"}
    assert [measure for measure, word in found.items() if word == "grows"] == ([leak] if leak else [])


def test_a_process_that_was_started_again_has_two_lives_and_the_longer_is_judged():
    samples = Samples()
    for number, count in enumerate((1, 40)):
        with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
            for each in range(count):
                samples.take((number + each) * STEP, "one", process.pid)
            process.stdin.close()
    first, second = samples.lives["one", "resident memory"]
    assert ([moment for moment, _ in first], len(second)) == ([0.0], 40)
    assert samples.verdicts(40 * STEP)["one", "threads"].word == "bounded"


def test_a_process_that_is_gone_has_no_sample():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    samples = Samples()
    samples.take(0.0, "one", process.pid)
    assert samples.lives == {}


def test_what_files_take_on_disk_is_counted_as_allocated(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "full").write_bytes(b"x" * (3 << 20))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 3.0 <= disk(tmp_path) < 4.0
