import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import choose, measure, parsed
from benchmarks.cases import FLOOR, Case, Gathered, Row, not_measured
from benchmarks.goals import GOALS, Goal, Rows, grown, judge, of, over
from benchmarks.machine import describe, file_system
from benchmarks.page import lines_of, page
from benchmarks.plot import Point, Series, line_plot, nice_step, x_axis, y_axis
from benchmarks.report import as_dict, failures, ratio, show


def put(system, clients, *values, **rest):
    return Row("clients", "put", system, {"clients": clients}, "per second", list(values), **rest)


ROWS = [
    put("raftlog", 1, 500.0, 400.0, 600.0, beside="etcd"),
    put("raftlog", 64, 9000.0, beside="etcd", note="<busy>"),
    put("etcd", 1, 250.0),
    not_measured("clients", "put", "nats", "per second", "nats is not installed", {"clients": 1}),
]


def clients(run):
    run.note("measuring")
    yield from ROWS


def fails(run):
    yield put("raftlog", 2, 1.0)
    raise RuntimeError("the disk is gone")


def fails_once(run):
    """It leaves a file beside its folder, and finds it when it is run again."""
    yield put("raftlog", 4, 1.0)
    mark = run.folder.parent / "mark"
    if not mark.exists():
        mark.touch()
        raise RuntimeError("Traceback\n  File …\nTimeoutError: [slow]")
    yield put("raftlog", 8, 1.0)


CASES = {
    "clients": Case("clients", "many", 1, 1, clients, (("clients", "per second"),)),
    "fails": Case("fails", "never", 1, 1, fails),
    "fails once": Case("fails once", "now and then", 1, 1, fails_once),
    "soak": Case("soak", "for hours", 1, 1, clients, by_default=False),
    "wan": Case("wan", "far apart", 1, 1, clients, in_quick=False),
}


@pytest.fixture(scope="module")
def report():
    return measure(choose(CASES, "", quick=True), parsed(["--quick"]))


def test_a_ratio_is_made_against_the_row_of_the_same_circumstances():
    assert ratio(ROWS[0], ROWS) == 2.0
    assert ratio(ROWS[1], ROWS) is None, "there is no figure of the other with 64 clients"
    assert ratio(ROWS[2], ROWS) is None, "it is beside nothing"


def test_a_case_that_fails_is_named_and_the_others_count(report):
    assert report.failed == {"fails": "RuntimeError: the disk is gone"}
    assert report.rows[:5] == [*ROWS, put("raftlog", 2, 1.0)]
    assert report.took.keys() == {"clients", "fails", "fails once"}


def test_a_case_that_fails_is_run_once_more_and_said_to_have_failed(report):
    assert report.again.keys() == {"fails", "fails once"}
    assert report.rows[5:] == [put("raftlog", 4, 1.0), put("raftlog", 8, 1.0)], "the rows of its first run are dropped"
    assert failures(report) == [
        "fails failed: RuntimeError: the disk is gone",
        "fails once failed once, its figures are of a second run: RuntimeError: TimeoutError: [slow]",
    ]


def test_a_case_that_is_no_default_runs_when_it_is_named():
    assert list(choose(CASES, "soak,clients", quick=True)) == ["clients", "soak"]
    assert "soak" not in choose(CASES, "", quick=False)
    assert "wan" in choose(CASES, "", quick=False)
    assert "wan" not in choose(CASES, "", quick=True)
    assert list(choose(CASES, "wan", quick=True)) == ["wan"]
    with pytest.raises(KeyError, match="sock"):
        choose(CASES, "sock", quick=True)


def test_tables_show_figures_ratios_and_what_was_not_measured(report):
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    text = out.getvalue()
    assert re.search(r"put +raftlog +clients 1 +per second +400 +500 +600 +2 × etcd", text)
    assert "not measured: nats is not installed" in text
    assert "fails failed: RuntimeError: the disk is gone" in text


def test_json_has_every_row_with_its_median_and_ratio(report):
    found = json.loads(json.dumps(as_dict(report)))
    assert (found["rows"][0]["median"], found["rows"][0]["ratio"]) == (500.0, 2.0)
    assert found["rows"][3]["values"] == []
    assert found["machine"]["cores"] >= 1


def test_the_page_stands_alone_and_escapes_what_it_shows(report):
    text = page(report)
    assert "&lt;busy&gt;" in text
    assert "<busy>" not in text
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|<script""", text)
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 1
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])


def test_a_line_is_what_differs_in_the_parameter_alone():
    found = lines_of(ROWS, "clients", "per second")
    assert [(line.label, [point.x for point in line.points]) for line in found] == [
        ("put, raftlog", [1.0, 64.0]),
        ("put, etcd", [1.0]),
    ]
    assert found[0].points[0] == Point(1.0, 500.0, 400.0, 600.0)


def test_axes_are_logarithmic_where_values_spread_and_keep_every_point_inside():
    assert x_axis([1, 4, 256]).is_logarithmic
    assert not x_axis([0, 256]).is_logarithmic, "zero has no logarithm"
    linear = y_axis([3.0, 9.0])
    assert (linear.is_logarithmic, linear.low) == (False, 0.0)
    for axis, values in ((x_axis([1, 4, 256]), [1, 4, 256]), (linear, [3.0, 9.0]), (y_axis([1.0, 50.0]), [1.0, 50.0])):
        places = [axis.at(value) for value in values]
        assert all(min(axis.start, axis.end) <= place <= max(axis.start, axis.end) for place in places)
        assert all(axis.low <= tick <= axis.high * 1.0001 for tick in axis.ticks())
        assert len(axis.ticks()) >= 3


@pytest.mark.parametrize(("rough", "step"), [(0.7, 1), (1, 1), (1.1, 2), (3, 5), (30, 50), (0.011, 0.02)])
def test_steps_are_round(rough, step):
    assert nice_step(rough) == pytest.approx(step)


def test_a_plot_of_nothing_is_nothing_and_of_one_point_is_a_point():
    assert line_plot("t", "x", "y", [Series("a", [])]) == ""
    assert line_plot("t", "x", "y", [Series("a", [Point(3, 0, 0, 0)])]).count("<circle") == 1


def test_repeats_are_gathered_into_one_row_and_their_notes_kept_once():
    gathered = Gathered("clients")
    for value, note in ((1.0, "slow"), (2.0, "slow"), (3.0, "slower yet")):
        gathered.add("put", "raftlog", {"clients": 1}, "ms", value, note=note)
    gathered.add("put", "etcd", {"clients": 1}, "ms", 9.0)
    ours, theirs = gathered.rows()
    assert (ours.values, ours.note, theirs.values) == ([1.0, 2.0, 3.0], "slow; slower yet", [9.0])


def test_a_goal_is_judged_by_its_row_and_one_without_a_row_is_not():
    rows = [
        Row("latency", "put", "raftlog", {"quantile": "p50"}, "ms", [0.8, 0.9, 5.0]),
        Row("latency", "put", FLOOR, {"quantile": "p50"}, "ms", [0.3]),
        put("raftlog", 64, 9_000.0),
    ]
    median, floor, many, *others = judge(rows)
    assert (median.reached, median.ratio, median.verdict) == ("0.9 ms", "0.90", "yes")
    assert (floor.reached, floor.ratio, floor.verdict) == ("3 ×", "1.50", "no")
    assert (many.goal, many.reached, many.verdict) == ("≥ 12,000 per second", "9,000 per second", "no")
    assert {other.verdict for other in others} == {"not measured in this run"}


def test_a_share_of_what_is_missing_is_not_judged():
    ours, theirs = (of("clients", "put", "per second", system, clients=1) for system in ("raftlog", "etcd"))
    goal = Goal("t", "×", over(ours, theirs), at_least=1)
    assert goal.judge(Rows([put("raftlog", 1, 5.0)])).is_reached is None
    assert goal.judge(Rows([put("raftlog", 1, 5.0), put("etcd", 1, 4.0)])).is_reached is True


def test_a_goal_takes_the_row_of_exactly_its_params_and_unit():
    rows = Rows(
        [
            Row("beside", "put, pipelined", "raftlog", {"processes": 2}, "per second", [9.0]),
            Row("beside", "put, pipelined", "raftlog", {"processes": 1}, "CPU ms", [5.0]),
            Row("beside", "put, pipelined", "raftlog", {"processes": 1}, "per second", [7.0]),
        ]
    )
    assert of("beside", "put, pipelined", "per second", processes=1)(rows) == 7.0
    assert of("beside", "put, pipelined", "per second")(rows) is None


def test_what_costs_more_with_more_is_judged_by_how_often_as_much():
    rows = [Row("rows", "create(): median", "raftlog", {"rows": n}, "ms", [t]) for n, t in ((10, 2.0), (1000, 5.0))]
    assert grown("rows", "create(): median", "ms", "rows", 10, 1000)(Rows(rows)) == 2.5
    assert grown("rows", "create(): median", "ms", "rows", 10, 100)(Rows(rows)) is None


def test_each_goal_has_one_bound():
    assert all((goal.at_least is None) != (goal.at_most is None) for goal in GOALS)


def test_the_machine_says_what_it_is(tmp_path):
    machine = describe(tmp_path)
    assert machine.versions["Python"]
    assert machine.memory_gib > 0
    assert dataclasses.replace(machine, load_before=100.0 * machine.cores).was_busy
    assert not dataclasses.replace(machine, load_before=0.0).was_busy


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="the system does not list what is mounted")
def test_the_file_system_is_that_of_the_longest_mount(tmp_path):
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(tmp_path) not in ("proc", "unknown")
