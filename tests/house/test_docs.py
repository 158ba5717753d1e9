"""The reference says all that there is, in the words of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/exceptions.md").read_text()


def errors():
    for path in ("raftlog/exceptions.py", "raftlog/backends/exceptions.py"):
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name != "RaftlogError":
                yield node.name, " ".join((ast.get_docstring(node) or "").split())


@pytest.mark.parametrize(("name", "text"), list(errors()), ids=lambda value: value if value.isidentifier() else "")
def test_each_error_stands_in_the_reference(name, text):
    assert f"| `{name}` |" in REFERENCE
    assert text in REFERENCE, f"docs/reference/exceptions.md has other words for {name} than its docstring"


def test_each_verb_stands_in_the_reference():
    verbs = {path.stem for path in (ROOT / "raftlog/management/raft").glob("*.py")} - {"__init__"}
    names = {
        match[1]
        for path in (ROOT / "raftlog/management/raft").glob("*.py")
        if (match := re.search(r'^    name = "([^"]+)"', path.read_text(), re.M))
    }
    assert len(names) == len(verbs)
    text = (ROOT / "docs/reference/management.md").read_text()
    assert [name for name in sorted(names) if f"`raft {name}" not in text] == []
