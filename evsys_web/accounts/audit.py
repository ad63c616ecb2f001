"""Who did what to what, and from where: one entry for each change that a person makes, written by the action that makes it.

Entries are added and never changed. Points of runs, attempts of evals and other rows that workers write by the thousand are not
here; that somebody stopped a run is. Secrets are named and not shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from evsys_web.accounts.models import AuditEntry, Project, User
from evsys_web.accounts.origin import origin

LONGEST_VALUE = 2_000
"""Characters of JSON; a longer value is cut, and says so."""
HIDDEN = "•••"
NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""The escape in JSON of a character that no database keeps; not a backslash that somebody typed, which is two in JSON."""
SECRETS = ("password", "secret", "sealed", "digest", "token_hash", "api_key")


def record(
    user: User | AnonymousUser | None,
    verb: str,
    thing: models.Model,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    project: Project | None = None,
) -> None:
    """Write an entry, in the caller's transaction if there is one. before, after: `facts` or parts of them; what is the same in
    both is left out. project: where the thing does not name its own."""
    from_where = origin()
    acting = user if isinstance(user, User) else None
    AuditEntry.objects.create(
        user=acting,
        username=acting.username if acting else "",
        project_id=project.pk if project else _project_id(thing),
        verb=verb,
        kind=str(thing._meta.verbose_name),
        thing_id=str(thing.pk or ""),
        thing=str(thing).replace("\0", "")[:200],
        changes=changes(before or {}, after or {}),
        door=from_where.door[:60],
        address=from_where.address,
    )


def facts(thing: models.Model) -> dict[str, Any]:
    """What a person decided about a thing: its fields that forms could hold, without files."""
    return {
        field.attname: field.value_from_object(thing)
        for field in thing._meta.concrete_fields
        if field.editable and not field.primary_key and not isinstance(field, models.FileField)
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    named = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in named}
    return {name: [_shown(name, value) for value in pair] for name, pair in pairs.items() if pair[0] != pair[1]}


def _shown(name: str, value: Any) -> Any:
    if value in (None, ""):
        return value
    if any(word in name.lower() for word in SECRETS):
        return HIDDEN
    text = NUL.sub(r"\1", json.dumps(value, cls=DjangoJSONEncoder, default=str))
    return json.loads(text) if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,} characters)"


def _project_id(thing: models.Model) -> int | None:
    if isinstance(thing, Project):
        return thing.pk
    for holder in (thing, getattr(thing, "run", None), getattr(thing, "dataset", None), getattr(thing, "checkpoint", None)):
        project_id = getattr(holder, "project_id", None)
        if project_id is not None:
            return int(project_id)
    return None
