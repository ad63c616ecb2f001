"""What points at a version, read backwards over the foreign keys of later apps, which this app does not know. A model that makes
versions instead of using them says so by a class attribute `MAKES_VERSIONS`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.db.models import Model

from evsys_web.datasets.models import DatasetVersion

MAX_LISTED = 20


class Dependents(NamedTuple):
    """Rows of one kind that point at versions: how many, and the newest of them."""

    noun: str
    num_rows: int
    listed: list[Model]


def dependents(versions: Iterable[DatasetVersion]) -> list[Dependents]:
    """Everything that was made from these versions, by kind; kinds without any are left away."""
    ids = [version.pk for version in versions]
    found = []
    for relation in DatasetVersion._meta.related_objects:
        model = relation.related_model
        if not isinstance(model, type) or getattr(model, "MAKES_VERSIONS", False):
            continue
        rows = model._default_manager.filter(**{f"{relation.field.name}__in": ids}).order_by("-pk")
        if count := rows.count():
            noun = model._meta.verbose_name if count == 1 else model._meta.verbose_name_plural
            found.append(Dependents(str(noun), count, list(rows[:MAX_LISTED])))
    return found
