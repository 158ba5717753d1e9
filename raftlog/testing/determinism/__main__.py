"""`python -m raftlog.testing.determinism …` is `manage.py raft determinism …`, by DJANGO_SETTINGS_MODULE."""

from __future__ import annotations

import sys

from django.core.management import execute_from_command_line

execute_from_command_line(["manage.py", "raft", "determinism", *sys.argv[1:]])
