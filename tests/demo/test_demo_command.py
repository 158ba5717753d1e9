"""`manage.py demo` refuses what it cannot show, and says why."""

import io

import pytest
from django.core.management.base import CommandError

from demo_site.bank.management.commands import demo
from demo_site.demo.scenario import Result
from raftlog.management.output import Output


@pytest.mark.parametrize(
    ("nodes", "kill", "commands", "words"),
    [
        (3, 2, 10, "of 3 nodes at most 1 may be down, since a majority (2)"),
        (3, 2, 10, "5 nodes survive 2"),
        (2, 1, 10, "at most 0"),
        (3, -1, 10, "negative"),
        (0, 0, 10, "--nodes 0"),
        (99, 1, 10, "1 to 25"),
        (3, 1, 0, "--commands 0"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_reason(nodes, kill, commands, words):
    with pytest.raises(CommandError) as raised:
        demo.refuse_impossible(nodes, kill, commands)
    assert words in str(raised.value)


@pytest.mark.parametrize(("nodes", "kill"), [(1, 0), (3, 1), (5, 2), (7, 3)])
def test_any_minority_may_be_killed(nodes, kill):
    demo.refuse_impossible(nodes, kill, 10)


def test_a_folder_in_use_is_refused(tmp_path):
    assert demo.make_directory(tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="not empty"):
        demo.make_directory(tmp_path)


@pytest.mark.parametrize("ok", [True, False])
def test_the_summary_says_whether_all_is_well(ok):
    stream = io.StringIO()
    result = Result(
        ok=ok, nodes=3, killed=1, acknowledged=1234, failover_ms=210.4, problems=[] if ok else ["1 lost: x"]
    )
    demo.tell(result, Output(stream))
    assert "1,234" in stream.getvalue()
    assert "210 ms" in stream.getvalue()
    assert ("FAILED" in stream.getvalue()) != ok
    assert ("PROBLEM: 1 lost: x" in stream.getvalue()) != ok
