import pytest

from benchmarks import cases
from benchmarks.cases import Row, case, not_measured


def test_rows_are_put_beside_one_another_by_what_they_measure():
    ours = Row("clients", "put", "raftlog", {"clients": 16}, "per second", [3.0, 1.0, 2.0], beside="etcd")
    theirs = Row("clients", "put", "etcd", {"clients": 16}, "per second", [4.0])
    assert ours.median == 2.0
    assert ours.key == theirs.key
    assert ours.key != Row("clients", "put", "etcd", {"clients": 64}, "per second", [4.0]).key


def test_what_could_not_be_measured_has_a_reason_and_no_figure():
    row = not_measured("clients", "put", "etcd", "per second", "etcd is not installed")
    assert row.median is None
    assert row.note == "not measured: etcd is not installed"


def test_two_cases_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(cases, "_cases", {})

    def elsewhere(run):
        yield from ()

    elsewhere.__module__ = "benchmarks.elsewhere"
    case("only in this test", "", seconds=1, quick_seconds=1)(lambda run: iter(()))
    with pytest.raises(ValueError, match="two cases named"):
        case("only in this test", "", seconds=1, quick_seconds=1)(elsewhere)
