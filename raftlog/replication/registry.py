"""`@command`: functions that can stand in the log, by name and version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, overload

from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from raftlog.exceptions import PayloadTooLarge
from raftlog.replication import codec, failures
from raftlog.replication import propose as proposing
from raftlog.replication.arguments import Arguments
from raftlog.replication.context import CommandContext
from raftlog.replication.keyed import IdempotencyName

Function = Callable[..., Any]


class Command:
    """A function that runs on every node. Propose it, or call it directly with a context, in unit tests."""

    def __init__(
        self,
        function: Function,
        *,
        name: str = "",
        version: int = 1,
        raises: Iterable[type[Exception]] = (),
        max_bytes: int | None = None,
        is_numbered: bool = True,
    ) -> None:
        if not isinstance(version, int) or version < 1:
            raise TypeError(f"@command {function.__qualname__}: version is {version!r}; count from 1")
        self.function = function
        self.version = version
        # Largest body, encoded; None: RAFTLOG["MAX_COMMAND_BYTES"]
        self.max_bytes = max_bytes
        # Whether it gets a key from a request's (keyed.numbered_keys).
        self.is_numbered = is_numbered
        self.arguments = Arguments(function)
        self.raises = failures.declare(raises, f"@command {function.__module__}.{function.__qualname__}")
        self._name = name
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @property
    def name(self) -> str:
        """The name in the log: given, or the app's label (the module where there is no app) and the function's name."""
        if not self._name:
            app = apps.get_containing_app_config(self.__module__)
            self._name = f"{app.label if app else self.__module__}.{self.__name__}"
        return self._name

    def __repr__(self) -> str:
        return f"<Command {self.__module__}.{self.__qualname__} version {self.version}>"

    def __call__(self, ctx: CommandContext, /, *args: Any, **arguments: Any) -> Any:
        return self.function(ctx, *args, **arguments)

    def encode(self, arguments: dict[str, Any], max_bytes: int, key: IdempotencyName | None = None) -> bytes:
        """The body of an entry. `max_bytes` is the limit where the command has none of its own.

        Raises InvalidArguments, PayloadTooLarge.
        """
        complete = self.arguments.check(self.name, arguments)
        try:
            keyed = key.asking("command", self.name, complete) if key is not None else None
            body = codec.encode_command(self.name, self.version, complete, keyed)
        except codec.CannotEncode as error:
            path = error.path.removeprefix("[2]")
            raise codec.CannotEncode(f"{self.name}: argument {path}".rstrip(), error.reason) from None
        limit = self.max_bytes or max_bytes
        if len(body) > limit:
            raise PayloadTooLarge(
                f"{self.name}: the arguments take {len(body)} bytes, the limit is {limit}; "
                "propose it in parts, or raise RAFTLOG['MAX_COMMAND_BYTES'] or @command(max_bytes=…)"
            )
        return body

    def with_options(
        self,
        *,
        timeout: float | None = None,
        proposal_id: str = "",
        idempotency_key: str = "",
        idempotency_scope: str = "",
    ) -> proposing.Bound:
        """The same command with a time limit in seconds, or to be tried again under the id of an earlier attempt.

        Args:
            idempotency_key: what was done under it is not done again, whoever asks: the recorded result is returned.
                1 to 200 printable characters.
            idempotency_scope: whose key it is: the same key in another scope is another one. Up to 200 characters.

        Raises InvalidArguments.
        """
        key = IdempotencyName(idempotency_scope, idempotency_key) if idempotency_key else None
        return proposing.Bound(self, timeout=timeout, proposal_id=proposal_id, key=key)

    def propose(self, /, **arguments: Any) -> Any:
        """Run on every node; returns the function's result once it is applied to this node's database."""
        return proposing.propose(self, arguments)

    async def apropose(self, /, **arguments: Any) -> Any:
        """As propose(), without blocking the event loop."""
        return await proposing.apropose(self, arguments)


class Registry:
    """All commands of a process, by name and version. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: dict[tuple[str, int], Command] = {}
        # Declared before Django's apps were loaded, so that their default names are not known yet.
        self._unnamed: list[Command] = []

    def add(self, command: Command) -> None:
        """Raises TypeError where another function has the same name and version."""
        with self._lock:
            self._unnamed.append(command)
        if apps.apps_ready:
            self._name_all()

    def remove(self, command: Command) -> None:
        """For tests."""
        self._name_all()
        with self._lock:
            self._commands.pop((command.name, command.version), None)

    def get(self, name: str, version: int) -> Command | None:
        if self._unnamed:
            self._name_all()
        return self._commands.get((name, version))

    def known(self) -> list[tuple[str, int]]:
        """(name, version) of every command that this process can apply, sorted."""
        self._name_all()
        return sorted(self._commands)

    def _name_all(self) -> None:
        with self._lock:
            while self._unnamed:
                command = self._unnamed.pop()
                key = (command.name, command.version)
                other = self._commands.setdefault(key, command)
                if other is not command:
                    raise TypeError(
                        f"the command {command.name!r} version {command.version} is declared twice: by {other!r} and "
                        f"by {command!r}; rename one, or give it @command(name=…) or @command(version=…)"
                    )


registry = Registry()


def find_command(name: str, version: int = 1) -> Command | None:
    """The command of this name and version in this process's code; None: it has none. Thread-safe."""
    return registry.get(name, version)


@overload
def command(function: Function, /) -> Command: ...


@overload
def command(
    *,
    name: str = ...,
    version: int = ...,
    raises: Iterable[type[Exception]] = ...,
    max_bytes: int | None = ...,
    is_numbered: bool = ...,
) -> Callable[[Function], Command]: ...


def command(
    function: Function | None = None,
    /,
    *,
    name: str = "",
    version: int = 1,
    raises: Iterable[type[Exception]] = (),
    max_bytes: int | None = None,
    is_numbered: bool = True,
) -> Command | Callable[[Function], Command]:
    """Make a function a command, bare or as `@command(raises=[NotEnough])`.

    Args:
        name: its name in the log; by default "<app label>.<function>". It must stay the same as long as entries
            with it may be in a log, so give it before the function is renamed or moved.
        version: raise it when arguments or effect change, and keep the old version as long as it may be in a log.
        raises: exceptions that are an outcome of the command, raised at the caller as what they are.
        max_bytes: largest encoded arguments, in place of RAFTLOG["MAX_COMMAND_BYTES"].
        is_numbered: False where its answer is true for a moment only, as a lock's: a request that is run again under
            its idempotency key (raftlog.middleware.Idempotency) asks for it anew.
    """

    def declare(function: Function) -> Command:
        made = Command(
            function, name=name, version=version, raises=raises, max_bytes=max_bytes, is_numbered=is_numbered
        )
        registry.add(made)
        return made

    return declare if function is None else declare(function)


def autodiscover() -> None:
    """Import the module `commands` of every installed app, as the admin does with `admin`."""
    autodiscover_modules("commands")
