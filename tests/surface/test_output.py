"""Commands print a table for people or one JSON object for scripts, never both."""

import io
import json

from raftlog.management.output import Output, shown, table


def test_people_get_lines_and_tables():
    stream = io.StringIO()
    output = Output(stream)
    output.line("hello [not markup]")
    output.show(table(["node", "lag"], [["a", 1200], ["b", None]]))
    output.result({"x": 1})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "hello [not markup]"
    assert lines[1].split() == ["node", "lag"]
    assert lines[2].split() == ["a", "1,200"]
    assert lines[3].split() == ["b", "–"]
    assert len(lines) == 4


def test_scripts_get_one_json_object():
    stream = io.StringIO()
    output = Output(stream, as_json=True)
    output.line("hello")
    output.show(table(["a"], [["b"]]))
    output.result({"x": 1})
    assert json.loads(stream.getvalue()) == {"x": 1}


def test_long_lines_are_not_folded():
    stream = io.StringIO()
    Output(stream).line("x" * 500)
    assert stream.getvalue() == "x" * 500 + "\n"


def test_values_are_shown_for_people():
    assert [shown(value) for value in (None, True, 12345, 0.125, 1234.5, "x")] == [
        "–",
        "yes",
        "12,345",
        "0.125",
        "1,234",
        "x",
    ]
