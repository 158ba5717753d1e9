"""Proposing what has to get through: again after "nothing was done", and under the same id after "nobody knows"."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from raftlog import clock
from raftlog.exceptions import CommandFailed, NotProposed, OutcomeUnknown, SessionExpired
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.queue")

FIRST_PAUSE: Final = 0.05  # seconds; doubled with each attempt up to
LAST_PAUSE: Final = 2.0
PATIENCE: Final = 60.0  # seconds, once a stop was asked for


class Insistent:
    """Used by several threads of one worker."""

    def propose(self, command: Any, arguments: dict[str, Any], stopping: threading.Event) -> Any:
        """The command's result; None where that cannot be known any more, or, while stopping, was given up.

        The queue's commands may safely be proposed again where an earlier attempt may have been applied: an id of
        the attempt makes it the same one, and claims are known by their token.
        """
        proposal_id, pause, stopped_at = "", FIRST_PAUSE, None
        while True:
            try:
                return command.with_options(proposal_id=proposal_id).propose(**arguments)
            except OutcomeUnknown as unknown:
                proposal_id = unknown.proposal_id
                trouble: Exception = unknown
            except NotProposed as refused:
                trouble = refused
            except SessionExpired:
                return None
            except CommandFailed as failed:
                logger.error(
                    "%s failed on every node alike: %s",
                    *(command.name, failed),
                    extra=log_fields("command_failed", about=command.name, reason=str(failed)),
                )
                return None
            logger.warning(
                "%s is tried again: %s",
                *(command.name, trouble),
                extra=log_fields("command_retried", about=command.name, reason=str(trouble)),
            )
            if stopping.is_set():
                stopped_at = clock.monotonic() if stopped_at is None else stopped_at
                if clock.monotonic() - stopped_at > PATIENCE:
                    logger.error(
                        "%s is given up, as this worker stops; claims end by themselves",
                        command.name,
                        extra=log_fields("command_failed", about=command.name, reason=str(trouble)),
                    )
                    return None
            clock.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)
