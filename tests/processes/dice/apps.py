import json

import msgspec
from django.apps import AppConfig


class DiceConfig(AppConfig):
    name = "tests.processes.dice"

    def ready(self):
        from raftlog.signals import divergence_found

        divergence_found.connect(tell, dispatch_uid="dice")


def tell(divergence, **_):
    """The signal, where a test can see it: in what the node prints."""
    print("SIGNAL " + json.dumps(msgspec.to_builtins(divergence)), flush=True)
