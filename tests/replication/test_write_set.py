"""Write sets: hashes with vectors, order kept, merging only where nobody can tell."""

import sqlite3

import pytest

from raftlog.exceptions import InvalidEntry
from raftlog.replication.shapes import Schema
from raftlog.replication.write_set import (
    DELETE,
    FORMAT,
    INSERT,
    UPDATE,
    Deletes,
    Inserts,
    Statement,
    StepBuilder,
    Updates,
    WriteSet,
    decode_write_set,
    encode_write_set,
    is_same,
    row_hash,
)

# Image -> BLAKE2b-128 of its msgpack array. They are part of the entry's format: a change here breaks clusters.
VECTORS = [
    ([], "7a9e3d48316709a334376b83e845f6fb"),
    ([None], "7667db628e449970e1eacb05ff47501c"),
    ([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)], "e34ea8bece1bfb47caf0ed0a6bc700d4"),
    ([0.0, -0.0, 1.5, float("inf")], "1547189c1deaa79146e56db33c7f5369"),
    (["", "ü", "a\0b"], "53ec948eee48e9d1bab1ccca97e94fc9"),
    ([b"", b"\x00\xff"], "00010932f50cb298a9adbe560615a54c"),
    ([1, "name", None, 2.5, b"x"], "a850b62c0c1070b8e63948db280fc2fa"),
]


@pytest.fixture
def shape():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id integer PRIMARY KEY, u text UNIQUE, a integer, b text)")
    yield Schema(connection).table("t")
    connection.close()


def build(shape, *changes):
    builder = StepBuilder({1: shape})
    builder.add_all(changes)
    return builder


@pytest.mark.parametrize(("image", "expected"), VECTORS, ids=[repr(image) for image, _ in VECTORS])
def test_hashes_of_rows(image, expected):
    assert row_hash(image).hex() == expected
    assert row_hash(tuple(image)).hex() == expected


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(1, 1, True), (1, 1.0, False), ("1", 1, False), ("1", b"1", False), (0.0, -0.0, False), (None, 0, False)],
)
def test_equal_means_stored_alike(left, right, same):
    assert is_same(left, right) is same
    assert (row_hash([left]) == row_hash([right])) is same


def test_neighbouring_changes_of_one_kind_are_one_step(shape):
    builder = build(
        shape,
        (INSERT, 1, (1, "x", 1, "p")),
        (INSERT, 1, (2, "y", 2, "q")),
        (DELETE, 1, (3, "z", 3, "r")),
        (INSERT, 1, (4, "w", 4, "s")),
    )
    assert builder.steps == [
        Inserts(0, [[1, "x", 1, "p"], [2, "y", 2, "q"]]),
        Deletes(0, [[3, row_hash([3, "z", 3, "r"])]]),
        Inserts(0, [[4, "w", 4, "s"]]),
    ]
    assert builder.tables == [("t", shape.digest)]


def test_an_update_holds_the_changed_columns_only(shape):
    builder = build(shape, (UPDATE, 1, (1, "x", 1, "p", 1, "x", 2, "p")))
    assert builder.steps == [Updates(0, [2], [[1, row_hash([1, "x", 1, "p"]), 2]])]


def test_later_changes_go_into_earlier_ones_where_no_unique_column_is_involved(shape):
    builder = build(
        shape,
        (INSERT, 1, (1, "x", 1, "p")),
        (UPDATE, 1, (5, "v", 0, "", 5, "v", 1, "")),
        (UPDATE, 1, (1, "x", 1, "p", 1, "x", 2, "q")),
        (UPDATE, 1, (5, "v", 1, "", 5, "v", 2, "")),
    )
    assert builder.steps == [
        Inserts(0, [[1, "x", 2, "q"]]),
        Updates(0, [2], [[5, row_hash([5, "v", 0, ""]), 2]]),
    ]


def test_changes_of_unique_columns_keep_their_order(shape):
    builder = build(
        shape,
        (UPDATE, 1, (1, "x", 0, "", 1, None, 0, "")),
        (UPDATE, 1, (2, "y", 0, "", 2, "x", 0, "")),
        (UPDATE, 1, (1, None, 0, "", 1, "y", 0, "")),
    )
    assert builder.steps == [
        Updates(
            0,
            [1],
            [[1, row_hash([1, "x", 0, ""]), None], [2, row_hash([2, "y", 0, ""]), "x"], [1, b"", "y"]],
        )
    ]


def test_what_the_write_set_made_itself_has_no_hash(shape):
    builder = build(shape, (INSERT, 1, (1, "x", 1, "p")), (DELETE, 1, (1, "x", 1, "p")))
    assert builder.steps == [Inserts(0, [[1, "x", 1, "p"]]), Deletes(0, [[1, b""]])]


def test_a_change_of_the_key_is_followed(shape):
    builder = build(shape, (UPDATE, 1, (1, "x", 0, "", 9, "x", 0, "")), (UPDATE, 1, (9, "x", 0, "", 9, "x", 1, "")))
    assert builder.steps == [Updates(0, [0], [[1, row_hash([1, "x", 0, ""]), 9]]), Updates(0, [2], [[9, b"", 1]])]


def test_touching_a_row_is_not_a_change(shape):
    builder = build(shape, (UPDATE, 1, (1, "x", 1, "p", 1, "x", 1, "p")))
    assert not builder.changes_anything
    assert builder.steps == [Updates(0, [], [[1, row_hash([1, "x", 1, "p"])]])]


def test_nothing_is_merged_across_a_schema_statement(shape):
    statement = Statement("ALTER TABLE t ADD c", [], False)
    builder = build(shape, (INSERT, 1, (1, "x", 1, "p")), statement, (UPDATE, 1, (1, "x", 1, "p", 1, "x", 2, "p")))
    assert builder.steps == [Inserts(0, [[1, "x", 1, "p"]]), statement, Updates(0, [2], [[1, b"", 2]])]


def test_encoding_keeps_every_value_and_type(shape):
    row = [2**63 - 1, "text\0", -0.0, b"\xff"]
    write_set = WriteSet(
        FORMAT, 7, 1, [("t", shape.digest)], [Inserts(0, [row]), Statement("DROP TABLE x", [], True)], ["r"], [[0, 4]]
    )
    found = decode_write_set(encode_write_set(write_set))
    assert found == write_set
    assert [type(value) for value in found.steps[0].rows[0]] == [int, str, float, bytes]
    assert found.is_schema
    assert found.foreign_keys_off
    assert found.row_count == 1


@pytest.mark.parametrize("body", [b"", b"\xc0", encode_write_set(WriteSet(99, 0, 0, [], [], [], []))])
def test_what_is_no_write_set_is_refused(body):
    with pytest.raises(InvalidEntry):
        decode_write_set(body)
