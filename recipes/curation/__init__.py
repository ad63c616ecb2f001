"""Curation: which attempts become training rows.

Reading order: tokens → tree → grammar → filters → settings → columns → pool → pairs → selection → curating.
"""

from recipes.curation.columns import Columns, ColumnsBuilder, columns_of
from recipes.curation.conversations import Conversation, conversation_row, pair_row, read_conversation
from recipes.curation.curating import Curated, PooledAttempt, SkippedAttempt, curate, row_of, skipped_attempts
from recipes.curation.filters import Aggregates, CompiledFilter, compile_filter
from recipes.curation.pool import Pool, TaskColumns, TaskKey
from recipes.curation.selection import Bin, Preview, Selection, preview, select
from recipes.curation.settings import CurationSettings, Rows, Select
from recipes.errors import FilterError

__all__ = [
    "Aggregates",
    "Bin",
    "Columns",
    "ColumnsBuilder",
    "CompiledFilter",
    "Conversation",
    "Curated",
    "CurationSettings",
    "FilterError",
    "Pool",
    "PooledAttempt",
    "Preview",
    "Rows",
    "Select",
    "Selection",
    "SkippedAttempt",
    "TaskColumns",
    "TaskKey",
    "columns_of",
    "compile_filter",
    "conversation_row",
    "curate",
    "pair_row",
    "preview",
    "read_conversation",
    "row_of",
    "select",
    "skipped_attempts",
]
