"""Arguments and results come back as what they were."""

import datetime
import enum
import uuid
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.replication import codec
from raftlog.replication.codec import CannotEncode
from tests.replication.warehouse.models import Item

UTC = datetime.UTC
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(codec.MIN_INT, codec.MAX_INT),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)).map(lambda value: value.replace(fold=0)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
keys = st.one_of(st.text(), st.integers(codec.MIN_INT, codec.MAX_INT), st.binary(), st.uuids(), st.dates())
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_what_is_encoded_comes_back_with_its_type(value):
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert repr(decoded) == repr(value)


@settings(max_examples=60, deadline=None)
@given(st.text(), st.integers(1, 2**31), st.dictionaries(st.text(), values, max_size=4))
def test_a_command_comes_back(name, version, arguments):
    assert codec.decode_command(codec.encode_command(name, version, arguments)) == (name, version, arguments)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64))
def test_garbage_is_refused_with_a_decode_error_or_is_a_value(data):
    for decode in (codec.decode, codec.decode_command):
        try:
            decode(data)
        except msgspec.DecodeError:
            continue


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Colour.RED, "red"),
        (Text("safe"), "safe"),
        (bytearray(b"x"), b"x"),
        (
            datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
            datetime.datetime(2024, 1, 1, 10, tzinfo=UTC),
        ),
        (datetime.datetime(1901, 1, 1, tzinfo=UTC), datetime.datetime(1901, 1, 1, tzinfo=UTC)),
        ({uuid.UUID(int=1): Decimal("1.50")}, {uuid.UUID(int=1): Decimal("1.50")}),
    ],
    ids=repr,
)
def test_what_comes_back_by_value(value, comes_back):
    assert repr(codec.decode(codec.encode(value))) == repr(comes_back)


def test_msgpack_nan_is_a_number_all_the_same():
    assert str(codec.decode(codec.encode(float("nan")))) == "nan"
    assert str(codec.decode(codec.encode(Decimal("NaN")))) == "NaN"


nested: list = []
nested.append(nested)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, r"^the value is 18446744073709551616, beyond 64 bits; pass it as str or Decimal"),
        (-(2**63) - 1, "beyond 64 bits"),
        (10**400, "an int of 1329 bits"),
        ([1, {"a": {1, 2}}], r"^\[1\]\['a'\] is of type builtins.set.*pass sorted"),
        ({"a": [range(3)]}, r"^\['a'\]\[0\] is of type builtins.range, which cannot be replicated"),
        (Item(id=1), "models.Item, which cannot be replicated; pass its primary key"),
        (1j, "builtins.complex"),
        ({(1, 2): 3}, "is a tuple as a key"),
        (nested, "nested too deeply, or contains itself"),
        ("\ud800", "not valid Unicode"),
    ],
    ids=str,
)
def test_what_cannot_travel_is_named_with_its_place(value, says):
    with pytest.raises(CannotEncode, match=says):
        codec.encode(value)
