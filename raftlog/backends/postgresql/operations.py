"""Operations of the stock backend, with compilers of our own."""

from __future__ import annotations

from django.db.backends.postgresql import operations as stock


class DatabaseOperations(stock.DatabaseOperations):
    compiler_module = "raftlog.backends.postgresql.compiler"
