"""Two versions beside each other. The page is there at once; the comparison, which reads both files, comes after it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from evsys_web.accounts.views import signed_in
from evsys_web.datasets.browser import whole_number
from evsys_web.datasets.diffs import diff, facts, shown_rows
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.views import ready_version
from recipes.errors import ConfigError, DataError


@require_GET
def compare(request: HttpRequest, pk: int) -> HttpResponse:
    """What is new in this version against an older one, by default the one before it."""
    version = ready_version(request, pk)
    others = version.dataset.versions.ready().exclude(pk=version.pk).select_related("dataset", "created_by").order_by("-number")
    before = _before(request, version) or version.previous() or others.first()
    context: dict[str, Any] = {"version": version, "before": before, "others": others[:200], "tab": "diff"}
    if before is not None and request.headers.get("HX-Request"):
        try:
            found = diff(before, version)
            context |= {
                "diff": found,
                "facts": facts(before, version),
                "added": shown_rows(version, found.added),
                "removed": shown_rows(before, found.removed),
                "names": _names(before, version),
            }
        except (ConfigError, DataError) as error:
            context["error"] = str(error)
        return render(request, "datasets/_diff.html", context)
    context["versions"] = version.dataset.versions.ready().select_related("created_by").order_by("-number")[:200]
    return render(request, "datasets/diff.html", context)


def _names(before: DatasetVersion, version: DatasetVersion) -> tuple[str, str]:
    """Of both, the dataset's once it is the same: it is the page's heading."""
    same = before.dataset_id == version.dataset_id
    return (f"version {before.number}", f"version {version.number}") if same else (before.reference, version.reference)


def _before(request: HttpRequest, version: DatasetVersion) -> DatasetVersion | None:
    """The version asked for, of whichever dataset; 404 for one that is not there or not the person's."""
    asked = whole_number(request.GET.get("against"))
    if not asked:
        return None
    found: DatasetVersion = get_object_or_404(
        DatasetVersion.objects.ready().visible_to(signed_in(request)).select_related("dataset", "created_by").distinct(), pk=asked
    )
    return found
