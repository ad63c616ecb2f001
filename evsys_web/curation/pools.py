"""Eval runs opened for curation: their columns pooled, and the answers to what was asked of the pool a moment ago."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from evsys_web.curation.columns import columns_of
from evsys_web.evals.models import EvalRun
from recipes.curation import Pool

MAX_POOLS = 4

Key = tuple[tuple[int, int, datetime], ...]
_pools: OrderedDict[Key, Pool] = OrderedDict()
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Sources:
    """Eval runs and the pool of their attempts; `pool.runs` are their keys as text, in this order."""

    runs: list[EvalRun]
    pool: Pool


def open_sources(runs: Sequence[EvalRun]) -> Sources:
    """The runs as their rows say they stand. Raises DataError where two attempts cannot be told apart."""
    chosen = list({run.pk: run for run in runs}.values())
    key = tuple((run.pk, run.last_seq, run.created_at) for run in chosen)
    with _guard:
        pool = _pools.get(key)
    if pool is None:
        pool = Pool.of([columns_of(run) for run in chosen])
    with _guard:
        _pools[key] = pool
        _pools.move_to_end(key)
        while len(_pools) > MAX_POOLS:
            _pools.popitem(last=False)
    return Sources(chosen, pool)
