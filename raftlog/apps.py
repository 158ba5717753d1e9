"""The Django app. `ready()` starts nothing: it runs in every management command, and twice under the reloader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from raftlog.runtime.ports import Proposer


class RaftlogConfig(AppConfig):
    name = "raftlog"
    verbose_name = "Raft"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from raftlog import checks
        from raftlog.replication import propose, registry

        checks.register_all()
        propose.set_proposer_factory(_local_proposer)
        registry.autodiscover()


def _local_proposer() -> Proposer:
    # Imported at the first proposal: most management commands make none, and need no sockets.
    from raftlog.host import local_proposer

    return local_proposer()
