"""`raft bench` counts what was applied, adds up its clients, and judges figures against the goals."""

import io
import json

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from raftlog.consensus.entries import client_header
from raftlog.management.raft.bench import parse_clients
from raftlog.runtime.ports import APPLIED, UNKNOWN, Outcome
from raftlog.testing.bench import client, figures, transactions
from raftlog.testing.bench.client import BenchmarkFailed, Load, Measured
from raftlog.testing.bench.orm_client import Worked
from raftlog.testing.bench.stages import AppliedBatch, Stages
from raftlog.testing.bench.together import shares


class Node:
    """A proposer that applies at once; of every `fail_at`-th payload it does not know the outcome."""

    def __init__(self, fail_at=0):
        self.payloads = []
        self.fail_at = fail_at

    def propose(self, payloads, timeout, done):
        self.payloads += payloads
        failed = self.fail_at and len(self.payloads) >= self.fail_at
        done([Outcome(payload[1:25], UNKNOWN if failed else APPLIED, 1, b"") for payload in payloads])


@pytest.fixture
def ticking(monkeypatch):
    """A clock that advances by 0.01 s at each look."""
    now = [0.0]

    def monotonic():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(client.clock, "monotonic", monotonic)


def test_a_blocking_client_proposes_one_after_the_other_until_time_is_over(ticking):
    node = Node()
    measured = client.run_blocking([client.log_proposals(node, Load("blocking", 1.0, value_bytes=7))], 1.0)
    assert measured.count == len(node.payloads) == len(measured.latencies) > 10
    headers = [client_header(payload) for payload in node.payloads]
    assert [header.sequence for header in headers] == list(range(1, len(headers) + 1))
    assert len(node.payloads[0]) == 33 + 7


def test_a_pipelined_client_waits_for_all_that_is_under_way(ticking):
    node = Node()
    measured = client.run_pipelined(node, Load("pipelined", 1.0, window=64, batch=16))
    assert measured.count == len(node.payloads) > 64
    assert measured.count % 16 == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_proposal_that_was_not_applied_fails_the_benchmark(ticking):
    with pytest.raises(BenchmarkFailed, match="status 4"):
        client.run_blocking([client.log_proposals(Node(fail_at=5), Load("blocking", 1.0))], 1.0)
    with pytest.raises(BenchmarkFailed):
        client.run_pipelined(Node(fail_at=100), Load("pipelined", 1.0, window=64, batch=16))


def test_quantiles_are_of_all_clients_together():
    measured = [Measured(3, 1.0, [0.001, 0.002, 0.003]), Measured(1, 0.5, [0.1])]
    figure = figures.summarize("x", Load("blocking", 1.0, 2), measured)
    assert figure.per_second == 5.0
    assert (figure.p50_ms, figure.p99_ms) == (3.0, 100.0)
    assert figures.summarize("x", Load("pipelined", 1.0), [Measured(3, 1.0)]).p50_ms is None


@pytest.mark.parametrize(
    ("name", "per_second", "p50_ms", "reached"),
    [
        ("1 blocking client, log only", 1000, 0.6, True),
        ("1 blocking client, log only", 1000, 0.8, False),  # twice the floor of 0.3 ms is 0.6
        ("64 blocking clients, log only", 12_000, 5, True),
        ("64 blocking clients, log only", 11_999, 5, False),
        ("pipelined, log only", 100_001, 0, True),
        ("one row a command, applied through the ORM", 3_000, 10, False),
        ("100 rows a command, bulk_create", 15_000, 10, True),
        ("16 blocking clients, log only", 1, 1, None),
    ],
)
def test_figures_are_judged_against_the_goals(name, per_second, p50_ms, reached):
    figure = figures.Figure(name, 1, per_second, p50_ms, p50_ms)
    figures.judge([figure], floor_ms=0.3)
    assert figure.reached is reached
    assert bool(figure.goal) == (reached is not None)


def test_client_counts_are_read_or_refused():
    assert parse_clients("1,16, 64") == [1, 16, 64]
    for text in ("", "0", "1,x"):
        with pytest.raises(CommandError, match="--clients"):
            parse_clients(text)


def test_threads_warm_up_uncounted_before_the_time_begins(ticking):
    done = []
    measured = client.run_blocking([lambda: done.append(1) or 1], 1.0, on_ready=lambda: done.append("ready"))
    assert done[:2] == [1, "ready"]
    assert measured.count == len(done) - 2 > 10


def test_writers_are_dealt_out_evenly():
    assert shares(16, 3) == [6, 5, 5]
    assert shares(1, 3) == [1]


def worked(latencies, **stages):
    return Worked(Measured(len(latencies), 1.0, latencies), 0.5, Stages(**stages))


def test_both_backends_are_compared_by_throughput_and_longest_wait():
    plan = transactions.Plan("create()", "create", 16, at_least=1.5, longest=0.1)
    stock = transactions.side(transactions.Window(0, 0, [worked([0.1, 0.2])], {}), plan)
    raft = transactions.side(transactions.Window(0, 0, [worked([0.01] * 2), worked([0.02])], {"a": 1.0}), plan)
    figure = transactions.compare(plan, stock, raft)
    assert (figure.throughput, figure.longest_wait, figure.reached) == (1.5, 0.1, True)
    assert (stock.cpu_ms, raft.cpu_ms) == (250.0, 666.667)
    assert transactions.compare(plan, raft, stock).reached is False


def test_stages_add_up_to_the_whole():
    spent = worked([0.010, 0.010], transactions=2, whole=0.020, turn=0.002, gather=0.002, rollback=0.002)
    spent.stages.proposals = [(1.0, 1.006), (2.0, 2.006)]
    batches = [AppliedBatch(1.003, 1.004, 0, 1), AppliedBatch(1.5, 1.6, 0, 1), AppliedBatch(2.003, 2.004, 0, 1)]
    *parts, whole = transactions.stages(transactions.Window(0, 0, [spent], {}), batches).values()
    assert parts == [1.0, 1.0, 1.0, 1.0, 3.0, 1.0, 2.0]
    assert sum(parts) == whole == 10.0


@pytest.mark.processes
def test_transactions_are_measured_on_three_nodes_beside_the_stock_backend(tmp_path):
    """Short, as below: every case runs to its end on both sides."""
    stream = io.StringIO()
    arguments = ["--transactions", "--quick", "--json", "--seconds=0.3", f"--dir={tmp_path}"]
    call_command("raft", "bench", *arguments, stdout=stream)
    report = json.loads(stream.getvalue())
    assert [(figure["name"], figure["writers"]) for figure in report["figures"]] == [
        ("create()", 1),
        ("create()", 16),
        ("bulk_create(1,000)", 1),
        ("get() by key", 1),
    ]
    assert all(figure["raft"]["per_second"] > 0 < figure["stock"]["per_second"] for figure in report["figures"])
    assert report["apply"]["rows_per_second"] > 0
    assert all(milliseconds > 0 for milliseconds in report["stages"].values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_three_real_nodes_are_measured_against_the_floor(tmp_path):
    """Short, so that the figures mean nothing here; that there are some means that every load runs to its end."""
    stream = io.StringIO()
    call_command("raft", "bench", "--json", "--seconds=0.3", "--clients=2", f"--dir={tmp_path}", stdout=stream)
    report = json.loads(stream.getvalue())
    assert report["floor_ms"] > 0
    assert [figure["name"].split(",")[0] for figure in report["figures"]] == [
        "2 blocking clients",
        "pipelined",
        "one row a command",
        "100 rows a command",
    ]
    assert all(figure["per_second"] > 0 for figure in report["figures"])
    assert list(tmp_path.iterdir()) == []
