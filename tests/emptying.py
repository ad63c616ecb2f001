"""How tables are emptied after a test that committed: those that hold rows are, in one transaction, but for what migrations fill.

Django's own way fills content types and permissions anew each time, a seventh of a second, and truncates all tables there are.
"""

from __future__ import annotations

from functools import cache

from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import TransactionTestCase

KEPT = {"django_content_type", "auth_permission"}


@cache
def tables() -> list[str]:
    return sorted(connection.introspection.django_table_names(only_existing=True, include_views=False))


def with_rows() -> set[str]:
    """In one query; quick, for it stops at the first row of each."""
    each = (f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {connection.ops.quote_name(table)})" for table in tables())
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(each))
        return {table for (table,) in cursor.fetchall()}


def empty_tables(test: TransactionTestCase) -> None:
    """In any order: whether what is referred to is there is looked at when the transaction ends. The last statement of a worker
    that was just killed may come in between, or wait for what is deleted here as this waits for it: then once more."""
    for is_last in (False, False, True):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                for table in with_rows() - KEPT:
                    cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")
            return
        except (IntegrityError, OperationalError):
            if is_last:
                raise


def install() -> None:
    TransactionTestCase._fixture_teardown = empty_tables  # type: ignore[method-assign]
