"""Which tables a schema entry's statements leave with other rows."""

import pytest

from raftlog.replication.ddl import rewritten_tables


@pytest.mark.parametrize(
    ("statements", "tables"),
    [
        (['CREATE TABLE "shop_item" ("id" integer)'], set()),
        (['INSERT INTO "new__item" ("id") SELECT "id" FROM "item"'], {"new__item"}),
        (['DROP TABLE "item"', 'ALTER TABLE "new__item" RENAME TO "item"'], {"item"}),
        (["drop table if exists main.Item"], {"item"}),
        (['DROP TABLE "odd ""name"""'], {'odd "name"'}),
        (['DROP TABLE "public"."item" CASCADE'], {"item"}),
        (["UPDATE item SET a = 1", "DELETE FROM other"], {"item", "other"}),
        (["CREATE INDEX i ON item (a)"], set()),
    ],
)
def test_named_by_their_text(statements, tables):
    assert rewritten_tables(statements) == tables
