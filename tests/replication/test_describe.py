"""An entry of the log, as people and scripts read it."""

import datetime
import json
import uuid
from decimal import Decimal

import msgspec

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import (
    COMMAND,
    NO_OP_PAYLOAD,
    OPEN_SESSION,
    RESERVE,
    SCHEMA,
    TRANSACTION,
    EntryBatch,
    Run,
    client_payload,
)
from raftlog.replication import codec
from raftlog.replication.describe import Columns, describe, line_of, plain
from raftlog.replication.write_set import (
    FORMAT,
    Deletes,
    Inserts,
    Statement,
    Updates,
    WriteSet,
    encode_write_set,
    reservation,
)

SESSION = bytes(range(16))
SHAPE = b"12345678"
COLUMNS = Columns(("id", "name", "stock"), (0,))
TIME = 1_700_000_000_000_000


def columns_of(table, digest):
    return COLUMNS if (table, digest) == ("shop_item", SHAPE) else None


def entry_of(payload, *, arguments=True):
    [entry] = describe(EntryBatch(7, [Run(1, 3, TIME)], [payload]), columns_of, arguments=arguments)
    return entry


def client(kind, body=b""):
    return client_payload(kind, SESSION, 4, 0, body)


def rows(*steps, tables=(("shop_item", SHAPE),)):
    return client(
        TRANSACTION, encode_write_set(WriteSet(FORMAT, 6, 0, list(tables), list(steps), ["shop_cart"], [[0, 1]]))
    )


def test_what_every_entry_has():
    entry = entry_of(NO_OP_PAYLOAD)
    assert entry == {"index": 7, "term": 3, "time": "2023-11-14T22:13:20.000+00:00", "kind": "no-op", "bytes": 1}
    assert entry_of(client(OPEN_SESSION))["session"] == SESSION.hex()


def test_a_command_with_its_arguments():
    arguments = {"item": 3, "note": "n" * 99, "price": Decimal("1.50"), "at": datetime.date(2026, 1, 2)}
    entry = entry_of(client(COMMAND, codec.encode_command("shop.buy", 2, arguments)))
    assert (entry["command"], entry["version"], entry["arguments"]) == ("shop.buy", 2, arguments)
    line = line_of(entry)
    assert line.startswith("shop.buy v2 item=3 note='nnn")
    assert "…" in line
    assert json.loads(json.dumps(plain(entry)))["arguments"]["price"] == "1.50"


def test_the_rows_of_a_transaction_by_the_names_of_their_columns():
    entry = entry_of(
        rows(
            Inserts(0, [[1, "nail", 5], [2, "screw", 6]]),
            Updates(0, [2], [[1, b"h" * 16, 4]]),
            Deletes(0, [[2, b""]]),
        )
    )
    assert [line_of({"changes": [change]}) for change in entry["changes"]] == [
        "insert shop_item id=1 name='nail' stock=5",
        "insert shop_item id=2 name='screw' stock=6",
        "update shop_item id=1: stock=4",
        "delete shop_item id=2",
    ]
    assert (entry["base"], entry["rows"], entry["tables"]) == (6, 4, ["shop_item"])
    assert (entry["read_tables"], entry["read_rows"]) == (["shop_cart"], 1)


def test_values_are_named_by_position_where_the_table_had_another_shape():
    """A column that was added since must not lend its name to another one."""
    entry = entry_of(rows(Updates(0, [2], [[1, b"h" * 16, 4]]), tables=[("shop_item", b"another.")]))
    assert line_of(entry) == "update shop_item key 0=1: column 2=4"


def test_without_arguments_no_value_is_shown():
    command = entry_of(client(COMMAND, codec.encode_command("shop.buy", 1, {"card": "4111"})), arguments=False)
    changed = [
        Inserts(0, [[1, "4111", 5]]),
        Updates(0, [1], [["4111", b"h" * 16, "4111"]]),
        Deletes(0, [["4111", b""]]),
    ]
    changes = entry_of(rows(*changed), arguments=False)
    for entry in (command, changes):
        assert "4111" not in line_of(entry) + json.dumps(plain(entry))
    assert line_of(command) == "shop.buy v1 …"
    assert line_of(changes) == "insert shop_item; update shop_item; delete shop_item"


def test_statements_reservations_and_configurations():
    schema = WriteSet(FORMAT, 6, 0, [], [Statement("CREATE TABLE x\n (a)", [], False)], [], [])
    assert line_of(entry_of(client(SCHEMA, encode_write_set(schema)))) == "CREATE TABLE x (a)"
    assert line_of(entry_of(client(RESERVE, reservation("shop_item", 100)))) == "100 keys of shop_item"
    configuration = Configuration("c" * 32, {n: Server(f"ws://{n}") for n in "abc"}, ("a", "b"), learners=("c",))
    assert line_of(entry_of(encode_configuration(configuration))) == "voters a, b; learners c"


def test_bytes_that_are_nothing_are_told_and_harm_nobody():
    for kind in (COMMAND, TRANSACTION, SCHEMA):
        assert "cannot be decoded" in line_of(entry_of(client(kind, b"\xc1\xff")))
    wrong = WriteSet(FORMAT, 6, 0, [], [Inserts(5, [[1]])], [], [])
    assert "IndexError" in line_of(entry_of(client(TRANSACTION, encode_write_set(wrong))))


def test_json_of_any_argument():
    keys = {uuid.UUID(int=1): b"\x01", 5: [datetime.timedelta(1), (1, None)]}
    assert plain(keys) == {str(uuid.UUID(int=1)): "01", "5": ["1 day, 0:00:00", [1, None]]}
    assert msgspec.json.encode(plain(keys))
