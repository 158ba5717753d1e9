"""Commands: names, versions, signatures, and arguments that do not fit."""

import datetime
import uuid
from decimal import Decimal
from typing import Any, Optional

import pytest

from raftlog import command
from raftlog.exceptions import InvalidArguments, PayloadTooLarge
from raftlog.replication import codec
from raftlog.replication.context import CommandContext
from raftlog.replication.registry import Command, Registry, registry
from tests.replication.warehouse import commands


def test_the_name_is_the_apps_label_and_the_functions_name():
    assert commands.add_item.name == "warehouse.add_item"
    assert registry.get("warehouse.add_item", 1) is commands.add_item
    assert ("warehouse.add_item", 1) in registry.known()
    assert registry.get("warehouse.add_item", 2) is None


def test_outside_of_apps_the_name_is_the_modules():
    def act(ctx): ...

    assert Command(act).name == f"{__name__}.act"


def test_a_name_and_version_belong_to_one_function():
    ours = Registry()
    ours.add(Command(lambda ctx: 1, name="a"))
    ours.add(Command(lambda ctx: 2, name="a", version=2))
    with pytest.raises(TypeError, match=r"the command 'a' version 2 is declared twice: by <Command .*rename one"):
        ours.add(Command(lambda ctx: 3, name="a", version=2))


def test_commands_declared_before_the_apps_are_loaded_are_named_later(monkeypatch):
    from django.apps import apps

    ours = Registry()
    monkeypatch.setattr(apps, "apps_ready", False)
    ours.add(commands.add_item)
    monkeypatch.undo()
    assert ours.known() == [("warehouse.add_item", 1)]


def test_a_command_can_be_called_directly():
    """Unit tests give it a context of their own."""

    def double(ctx, *, number: int) -> int:
        return number * 2 + ctx.index

    made = Command(double, name="double")
    assert made(CommandContext(index=7), number=3) == 13
    assert made.__name__ == "double"
    assert made.__wrapped__ is double


async def coroutine(ctx): ...


def generator(ctx):
    yield


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: None, "must take the context first"),
        (lambda *, ctx: None, "must take the context first"),
        (lambda ctx, *args: None, r"\*args is not possible; name each argument"),
        (lambda ctx, **options: None, r"\*\*options is not possible"),
        (coroutine, "must be a plain function"),
        (generator, "must be a plain function"),
    ],
    ids=["none", "keyword", "args", "kwargs", "async", "generator"],
)
def test_functions_that_cannot_be_commands(function, says):
    with pytest.raises(TypeError, match=says):
        Command(function, name="x")


@pytest.mark.parametrize("kind", [Exception, MemoryError, int, "ValueError"])
def test_exceptions_that_cannot_be_declared(kind):
    with pytest.raises(TypeError, match=r"raises|cannot be declared"):
        command(name="never", raises=[kind])(lambda ctx: None)


def test_a_version_counts_from_one():
    with pytest.raises(TypeError, match="version is 0"):
        Command(lambda ctx: None, version=0)


def everything(
    ctx,
    *,
    i: int = 0,
    f: float = 0.0,
    s: str = "",
    b: bool = False,
    by: bytes = b"",
    d: Decimal = Decimal(0),
    when: Optional[datetime.datetime] = None,  # noqa: UP045
    day: "datetime.date | None" = None,
    u: uuid.UUID | None = None,
    li: list[int] = (),
    di: dict[str, Any] | None = None,
    anything=None,
    later: "OnlyForTypeCheckers" = None,  # noqa: F821
): ...


EVERYTHING = Command(everything, name="everything")
NOW = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"i": 2**63, "f": 1, "s": "x", "b": True, "by": b"x", "d": 3, "when": NOW, "day": NOW.date()},
        {"u": uuid.UUID(int=7), "li": [1], "di": {"a": 1}, "anything": [NOW], "later": "x", "when": None},
        {"li": (1, 2), "d": Decimal("1.5"), "f": float("inf")},
    ],
    ids=str,
)
def test_arguments_that_fit(arguments):
    body = EVERYTHING.encode(arguments, 1 << 20)
    name, version, sent = codec.decode_command(body)
    assert (name, version) == ("everything", 1)
    assert sent.keys() == EVERYTHING.arguments.names, "defaults are filled in where it is proposed"
    for key, value in arguments.items():
        assert sent[key] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("i", "2", r"^everything: argument 'i' must be int, not '2' \(str\)$"),
        ("i", True, r"must be int, not True \(bool\)"),
        ("i", 1.5, "must be int, not 1.5"),
        ("f", "1", "must be float"),
        ("b", 1, "must be bool"),
        ("s", None, r"must be str, not None \(NoneType\)"),
        ("by", "x", "must be bytes"),
        ("d", 1.5, r"must be Decimal, not 1.5 \(float\)"),
        ("when", NOW.date(), "must be datetime or None, not"),
        ("day", NOW, "must be date or None, not"),
        ("u", "x", "must be UUID or None"),
        ("li", {}, "must be list, not"),
        ("di", [], "must be dict or None"),
        ("anything", object(), r"^everything: argument \['anything'\] is of type builtins.object"),
        ("i", 2**64, r"argument \['i'\] is 18446744073709551616, beyond 64 bits"),
        ("s", "x" * 100 + "\ud800", "not valid Unicode"),
        ("day", "x" * 100, r"x…\)? ?\(str\)|x… \(str\)"),
        ("whenn", NOW, "^everything: unknown argument 'whenn'; did you mean 'when'?"),
        ("zzz", NOW, "unknown argument 'zzz'; it takes i: int = 0,"),
    ],
)
def test_arguments_that_do_not_fit(name, value, says):
    with pytest.raises(InvalidArguments, match=says):
        EVERYTHING.encode({name: value}, 1 << 20)


def test_a_missing_argument_is_named():
    says = r"warehouse.take: argument 'quantity' is missing; it takes name: str, quantity: int"
    with pytest.raises(InvalidArguments, match=says):
        commands.take.encode({"name": "nail"}, 1 << 20)


def test_an_argument_too_large_names_size_and_limit():
    says = r"warehouse.add_item: the arguments take \d+ bytes, the limit is 1048576"
    with pytest.raises(PayloadTooLarge, match=says):
        commands.add_item.encode({"name": "x" * (1 << 20)}, 1 << 20)
    small = Command(lambda ctx, *, text: None, name="small", max_bytes=30)
    with pytest.raises(PayloadTooLarge, match="the limit is 30"):
        small.encode({"text": "x" * 30}, 1 << 20)
