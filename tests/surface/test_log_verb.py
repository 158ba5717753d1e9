"""`raft log` on a folder: pages, filters, hidden values; read only and without its lock."""

import io
import json
import shutil

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from raftlog.consensus.entries import COMMAND, NO_OP_PAYLOAD, EntryBatch, Run, client_payload
from raftlog.management.raft import log
from raftlog.replication import codec
from raftlog.runtime import clock
from raftlog.storage import open_storage

SECOND = 1_000_000
START = 1_767_225_600 * SECOND  # 2026-01-01
SESSION = b"s" * 16


def entries(first, count, term):
    """A no-op, then commands whose log times are their indices in seconds."""
    names = {number: "shop.buy" if number % 2 else "shop.sell" for number in range(first, first + count)}
    payloads = [
        client_payload(COMMAND, SESSION, n, 0, codec.encode_command(name, 1, {"item": n})) for n, name in names.items()
    ]
    payloads[0] = NO_OP_PAYLOAD
    return EntryBatch(first, [Run(1, term, START + n * SECOND) for n in names], payloads)


@pytest.fixture
def folder(tmp_path):
    """Entries 1-20 of term 1, 21-30 of term 2; the owner is still there, with its lock."""
    storage = open_storage(tmp_path / "raft", node_id="a", new_incarnation="1" * 32)
    for batch in (entries(1, 20, 1), entries(21, 10, 2)):
        storage.log.append(batch)
    storage.log.sync()
    yield storage
    storage.close()


@pytest.fixture(autouse=True)
def settings(tmp_path):
    options = {"NODE_ID": "a", "DATA_DIR": str(tmp_path / "raft"), "STATE_MACHINE": "log"}
    with override_settings(RAFTLOG=options | {"SECRET_KEYS": ["k" * 32]}):
        yield


def shown(*arguments):
    output = io.StringIO()
    call_command("raft", "log", *arguments, stdout=output)
    return output.getvalue().splitlines()


def indices(*arguments):
    return [json.loads(line)["index"] for line in shown("--json", *arguments)]


def test_the_newest_entries_without_a_node_beside_the_owner_of_the_folder(folder):
    assert indices("--limit", "3") == [28, 29, 30]
    assert len(indices()) == 30
    lines = shown("--limit", "1")
    assert lines == ["       30     2  2026-01-01T00:00:30.000  command       shop.sell v1 item=30"]


def test_pages_say_where_they_go_on(folder):
    lines = shown("--from", "5", "--limit", "2")
    assert [line.split()[0] for line in lines[:2]] == ["5", "6"]
    assert lines[2] == "More: manage.py raft log --from 7"
    assert indices("--from", "29") == [29, 30]
    assert indices("--from", "3", "--to", "5") == [3, 4, 5]
    assert indices("--to", "2") == [1, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--term", "2", "--limit", "2"], [29, 30]),
        (["--kind", "no-op"], [1, 21]),
        (["--command", "shop.buy", "--to", "6"], [3, 5]),
        (["--since", "2026-01-01T00:00:29+00:00"], [29, 30]),
        (["--until", "2026-01-01 00:00:02+00:00"], [1, 2]),
        (["--grep", r"item=1\d\b", "--limit", "2"], [18, 19]),
        (["--from", "1", "--grep", r"item=1\d\b", "--limit", "2"], [10, 11]),
        (["--command", "shop.none"], []),
    ],
)
def test_filters(folder, options, expected):
    assert indices(*options) == expected


def test_the_newest_matches_are_found_far_back(folder, monkeypatch):
    monkeypatch.setattr(log, "WINDOW", 4)
    assert indices("--kind", "no-op") == [1, 21]
    assert indices("--command", "shop.buy", "--limit", "3") == [25, 27, 29]


def test_arguments_can_be_hidden(folder):
    assert "item" not in "".join(shown("--no-arguments"))
    assert json.loads(shown("--no-arguments", "--json", "--limit", "1")[0])["arguments"] is None


def test_a_copied_folder_is_read_and_left_as_it_is(folder, tmp_path):
    folder.log.append(entries(31, 1, 2))  # not synced: in a copy as it is
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "raft", copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert indices("--data-dir", str(copy), "--limit", "1") == [31]
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_follow_shows_what_is_appended_meanwhile(folder, monkeypatch):
    looks = iter([entries(31, 2, 2), entries(33, 1, 2)])

    def sleep(seconds):
        batch = next(looks, None)
        if batch is None:
            raise KeyboardInterrupt
        folder.log.append(batch)
        folder.log.sync()

    monkeypatch.setattr(clock, "sleep", sleep)
    assert indices("--follow", "--limit", "1") == [30, 31, 32, 33]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--grep", "("], "--grep"),
        (["--since", "yesterday"], "--since yesterday: write it as"),
        (["--until", "2026-13-01T00:00"], "--until"),
        (["--data-dir", "/nowhere/at/all"], "nowhere"),
        (["--node", "b"], "no member|cannot be reached"),
    ],
)
def test_mistakes_are_named(options, match):
    with pytest.raises(CommandError, match=match):
        shown(*options)
