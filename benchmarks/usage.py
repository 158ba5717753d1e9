"""What processes use, sampled: resident memory, descriptors, threads, room on disk; and whether it grows without bound.

The rule, for the samples of one process and one measure: a line is laid through the last two thirds of them (Theil and
Sen: the median of the slopes of all pairs, which neither a sawtooth nor a few high samples tilt). What it rises by in
that time may be ALLOWED of the measure, or a twentieth of the median sample where that is more. Then the measure is
"bounded", else it "grows". Fewer than MIN_SAMPLES are not judged.
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
MAX_JUDGED: Final = 400  # of a long series every so many-th sample is judged: pairs are many
# Measure -> (unit, by how many units it may rise in the time that is judged).
ALLOWED: Final = {
    "resident memory": ("MiB", 8.0),
    "descriptors": ("descriptors", 4.0),
    "threads": ("threads", 2.0),
    "disk": ("MiB", 16.0),
}
ALLOWED_SHARE: Final = 0.05  # of the median

Sample = tuple[float, float]  # seconds, value


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one series. `slope`: units an hour; `rise`: units over the time that was judged."""

    slope: float
    rise: float
    allowed: float

    @property
    def is_bounded(self) -> bool:
        return self.rise <= self.allowed

    @property
    def word(self) -> str:
        return "bounded" if self.is_bounded else "grows"


def judge(measure: str, samples: Sequence[Sample]) -> Verdict | None:
    """By the rule above; None where there are too few samples. Raises KeyError: there is no such measure."""
    last = list(samples)[len(samples) // 3 :]
    if len(last) < MIN_SAMPLES:
        return None
    last = last[:: -(-len(last) // MAX_JUDGED)]
    slope = statistics.median(
        (later - value) / (then - moment)
        for number, (moment, value) in enumerate(last)
        for then, later in last[number + 1 :]
    )
    allowed = max(ALLOWED[measure][1], ALLOWED_SHARE * statistics.median(value for _, value in last))
    return Verdict(3600 * slope, slope * (last[-1][0] - last[0][0]), allowed)


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
    """Series by process and measure; a process that was started again begins a new series of the same name."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], list[Sample]] = {}
        self._pids: dict[str, int] = {}

    def take(self, moment: float, process: str, pid: int | None, folder: Path | None = None) -> None:
        """One sample of what runs; what does not run has none, but its `folder` has."""
        if folder is not None:
            self.series.setdefault((process, "disk"), []).append((moment, disk(folder)))
        if pid is None:
            return
        try:
            used = of_process(pid)
        except OSError:
            return  # it was killed just now: the next sample is of the one that comes after it
        is_new = self._pids.get(process, pid) != pid
        self._pids[process] = pid
        for measure, value in used.items():
            if is_new:
                self.series[process, measure] = []
            self.series.setdefault((process, measure), []).append((moment, value))

    def verdicts(self) -> dict[tuple[str, str], Verdict | None]:
        return {key: judge(key[1], samples) for key, samples in self.series.items()}
