"""`python -m raftlog.testing.trials NAME`: prints what happens, the report, and ends with 1 where it has problems."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import secrets
import sys
import tempfile
from pathlib import Path

import django
from django.conf import settings

from raftlog.testing import trials
from raftlog.testing.trials import Trial

NO_TRIALS = ("__main__", "chaos")


def find_trials() -> list[Trial]:
    names = sorted(module.name for module in pkgutil.iter_modules(trials.__path__))
    return [
        importlib.import_module(f"{trials.__name__}.{name}").TRIAL()
        for name in names
        if name not in NO_TRIALS and not name.startswith("_")
    ]


def set_up(trial: Trial) -> None:
    """Django in this process, which for most trials needs no settings: the nodes have their own."""
    if trial.settings_module:
        os.environ["DJANGO_SETTINGS_MODULE"] = trial.settings_module
        django.setup()
    else:
        settings.configure()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m raftlog.testing.trials", description=trials.__doc__)
    subparsers = parser.add_subparsers(dest="trial", metavar="NAME", required=True)
    found = {trial.name: trial for trial in find_trials()}
    for trial in found.values():
        subparser = subparsers.add_parser(trial.name, help=trial.help, description=trial.help)
        subparser.add_argument("--seed", type=int, help="of the faults and the load (default: a fresh one, printed)")
        subparser.add_argument("--nodes", type=int, default=3, help="(default: 3)")
        subparser.add_argument("--json", action="store_true", help="print one JSON object instead of words")
        trial.add_arguments(subparser)
    options = vars(parser.parse_args(arguments))
    if not settings.configured:
        set_up(found[options["trial"]])
    as_json = options["json"]
    options["seed"] = secrets.randbits(31) if options["seed"] is None else options["seed"]

    def tell(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    tell(f"seed {options['seed']}")
    with tempfile.TemporaryDirectory(prefix="raftlog-") as directory:
        report = found[options["trial"]].run(options, Path(directory), random.Random(options["seed"]), tell)
    report = {"trial": options["trial"], "seed": options["seed"], "ok": not report["problems"], **report}
    print(json.dumps(report, indent=None if as_json else 2))  # noqa: T201
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
