"""What processes use, sampled: resident memory, descriptors, threads, room on disk; and whether it grows without bound.

A process lives from its start to its end: one that is killed and started again has two lives, each with samples of its
own. The rule, for one life and one measure: a line is laid through the second half of its samples, since the first is
warm-up (Theil and Sen: the median of the slopes of all pairs, which neither a sawtooth nor a few high samples tilt).
Where it rises by no more than ALLOWED an hour the measure is "bounded", else it "grows". A life that is shorter than
half of the run, or whose second half has fewer than MIN_SAMPLES, is not judged.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
MIN_SAMPLES: Final = 12
MAX_JUDGED: Final = 400  # of a long life every so many-th sample is judged: pairs are many
# Measure -> (unit, by how many units an hour it may rise).
ALLOWED: Final = {
    "resident memory": ("MiB resident", 16.0),
    "descriptors": ("descriptors", 8.0),
    "threads": ("threads", 4.0),
    "disk": ("MiB on disk", 32.0),
}
JUDGED_SHARE: Final = 0.5  # of the run, that a life must have lasted

Sample = tuple[float, float]  # seconds, value


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one life. `slope`: units an hour, None where it is not judged, and then `why` says why."""

    measure: str
    slope: float | None = None
    why: str = ""

    @property
    def allowed(self) -> float:
        """Units an hour."""
        return ALLOWED[self.measure][1]

    @property
    def is_bounded(self) -> bool | None:
        return None if self.slope is None else self.slope <= self.allowed

    @property
    def word(self) -> str:
        return {None: "not judged", True: "bounded", False: "grows"}[self.is_bounded]


def judge(measure: str, life: Sequence[Sample], run_seconds: float) -> Verdict:
    """By the rule above. Raises KeyError: there is no such measure."""
    lasted = length(life)
    if lasted < JUDGED_SHARE * run_seconds:
        return Verdict(measure, why=f"its longest life had {lasted / 60:.1f} of {run_seconds / 60:.1f} minutes")
    middle = life[0][0] + lasted / 2
    last = [sample for sample in life if sample[0] >= middle]
    if len(last) < MIN_SAMPLES:
        return Verdict(measure, why=f"{len(last)} samples in the second half of its life, {MIN_SAMPLES} are needed")
    return Verdict(measure, 3600 * slope(last))


def slope(samples: Sequence[Sample]) -> float:
    """Units a second, by Theil and Sen."""
    used = samples[:: -(-len(samples) // MAX_JUDGED)]
    return statistics.median(
        (later - value) / (then - moment)
        for number, (moment, value) in enumerate(used)
        for then, later in used[number + 1 :]
    )


def length(life: Sequence[Sample]) -> float:
    """Seconds from its first sample to its last; 0.0 of none."""
    return life[-1][0] - life[0][0] if life else 0.0


def of_process(pid: int) -> dict[str, float]:
    """Measure -> value now, but for the disk (proc(5)). Raises OSError: there is no such process any more."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"process {pid} has ended")
    return {
        "resident memory": int(fields["VmRSS"].split()[0]) / 1024,
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "threads": float(fields["Threads"]),
    }


def peak_memory(pid: int) -> float:
    """The most that was resident at one time, in MiB (proc(5), VmHWM). Raises OSError."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def disk(folder: Path) -> float:
    """MiB that the files under `folder` take, as allocated. Files may come and go meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed between the two calls, so it takes nothing
    return total / MIB


class Samples:
    """Samples by process and measure, life by life. What is on disk outlives its process, and has one life."""

    def __init__(self) -> None:
        self.lives: dict[tuple[str, str], list[list[Sample]]] = {}
        self._pids: dict[str, int] = {}

    def take(self, moment: float, process: str, pid: int | None, folder: Path | None = None) -> None:
        """One sample of what runs; what does not run has none, but its `folder` has."""
        if folder is not None:
            self.lives.setdefault((process, "disk"), [[]])[-1].append((moment, disk(folder)))
        if pid is None:
            return
        try:
            used = of_process(pid)
        except OSError:
            return  # it was killed just now: the next sample is of the one that comes after it
        is_new = self._pids.get(process) != pid
        self._pids[process] = pid
        for measure, value in used.items():
            lives = self.lives.setdefault((process, measure), [])
            if is_new:
                lives.append([])
            lives[-1].append((moment, value))

    def verdicts(self, run_seconds: float) -> dict[tuple[str, str], Verdict]:
        """Of the longest life of each process."""
        return {
            (process, measure): judge(measure, max(lives, key=length), run_seconds)
            for (process, measure), lives in self.lives.items()
        }
