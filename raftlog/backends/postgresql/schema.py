"""The schema editor: the stock one, behind a fence (rule 13)."""

from __future__ import annotations

from django.db.backends.postgresql import schema as stock

from raftlog.backends.fenced import FencedSchemaEditor


class DatabaseSchemaEditor(FencedSchemaEditor, stock.DatabaseSchemaEditor):
    """See FencedSchemaEditor."""
