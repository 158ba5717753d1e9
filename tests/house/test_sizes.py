"""A file is one RPC, one thread or one idea."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500


@pytest.mark.parametrize("path", sorted((ROOT / "raftlog").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_stays_under_the_ceiling_and_says_what_it_is_for(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    if text.strip() and "migrations" not in path.parts:
        assert text.lstrip().startswith(('"""', 'r"""', "#!")), "the first line says the purpose of the module"
