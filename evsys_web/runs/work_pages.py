"""What pages about work of any kind share: a page of the list, a deed from a button, the config as a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from evsys_web.accounts.models import User
from evsys_web.accounts.views import signed_in
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.snippets import curl_for, yaml_of
from evsys_web.runs.status import ACTIVE, Status
from evsys_web.runs.work import Tracked, WorkQuerySet
from recipes.config import Document

PER_PAGE = 25
MAX_WORDS = 8


def searched(request: HttpRequest) -> list[str]:
    """The words typed into the search; a row is to hold all of them."""
    return _typed(request).split()[:MAX_WORDS]


def list_context(request: HttpRequest, works: WorkQuerySet, rows: WorkQuerySet) -> dict[str, Any]:
    """One page of `works`, newest first and of the status asked for, fetched from `rows`: `page`, and `listed` in order.

    Sorting keys alone, then fetching one page of rows: with their configs, ten thousand rows take three times as long to sort.
    """
    words, status = _typed(request), request.GET.get("status", "")
    works = works.newest_first()
    if status in Status.values:
        works = works.filter(status=status)
    page: Page[Any] = Paginator(works.values_list("pk", flat=True), PER_PAGE).get_page(request.GET.get("page"))
    found: dict[int, Tracked] = rows.in_bulk(list(page))
    listed = [found[pk] for pk in page if pk in found]
    return {
        "page": page,
        "listed": listed,
        "words": words,
        "status": status,
        "statuses": Status.choices,
        "is_filtered": bool(words or status),
        "is_live": any(work.status in (*ACTIVE, Status.QUEUED) for work in listed),
    }


def yaml_file(text: str, *, name: str) -> HttpResponse:
    answer = HttpResponse(text, content_type="application/yaml")
    answer["Content-Disposition"] = f'attachment; filename="{name}.yaml"'
    return answer


def act(request: HttpRequest, action: Callable[[User], Any], *, back: str, said: str = "") -> HttpResponse:
    """Do it and go back, with what it was refused for, or with `said`."""
    try:
        action(signed_in(request))
    except RunRefused as refusal:
        messages.error(request, str(refusal))
    else:
        if said:
            messages.success(request, said)
    return redirect(back)


def _typed(request: HttpRequest) -> str:
    return request.GET.get("q", "").replace("\0", "").strip()[:200]


def export_of(request: HttpRequest, form: Any, kind: type[Document], collection: str) -> HttpResponse:
    """The settings as typed, as YAML and as a call of the API."""
    context: dict[str, Any] = {"mistakes": [] if form.is_valid() else form.mistakes()}
    if not context["mistakes"]:
        config = form.config.model_dump(mode="json")
        context |= {"yaml": yaml_of(kind, config), "curl": curl_for(request, collection, config)}
    return render(request, "runs/_export.html", context)
