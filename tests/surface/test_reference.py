"""The reference pages name every setting and every check, and nothing else."""

import re
from pathlib import Path

from raftlog import checks, conf
from raftlog.backends import checks as backend_checks

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented():
    text = (ROOT / "docs/reference/settings.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    assert documented == set(conf.KNOWN_KEYS)


def test_every_check_is_documented_under_the_anchor_that_its_hint_names():
    source = "".join(Path(module.__file__).read_text() for module in (conf, checks, backend_checks))
    used = set(re.findall(r'"([EW]0\d\d)"', source))
    documented = set(re.findall(r"^## ([EW]\d+)$", (ROOT / "docs/reference/checks.md").read_text(), re.MULTILINE))
    assert used == documented
