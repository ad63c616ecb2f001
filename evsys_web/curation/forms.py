"""What the workbench's address or its form asks for: eval runs, the settings of a curation, and a name for the dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.forms.boundfield import BoundField
from django.http import QueryDict
from django.urls import reverse
from django.utils.http import urlencode

from evsys_web.accounts.models import User
from evsys_web.config_forms import ConfigForm
from evsys_web.curation.models import Filter
from evsys_web.evals.models import EvalRun
from evsys_web.runs.status import Status
from recipes.curation import CurationSettings, compile_filter
from recipes.errors import FilterError

MAX_EVALS = 50
NUM_OFFERED = 30
TYPED = "filter"


def curatable(user: User) -> QuerySet[EvalRun]:
    """Eval runs that a person may curate from: those with an attempt that has a verdict, newest first."""
    runs = EvalRun.objects.visible_to(user).exclude(status=Status.DRAFT).filter(num_done__gt=0)
    found: QuerySet[EvalRun] = runs.select_related("project", "benchmark", "checkpoint__run").defer("error_detail").distinct()
    return found.order_by("-created_at", "-pk")


class WorkbenchForm:
    """`asked` is a query string or what was posted. After `is_valid()`, `settings` are checked; `filter_error` is set when the
    filter is not understood."""

    def __init__(self, user: User, asked: QueryDict) -> None:
        self.user = user
        self.asked = asked
        self.runs = self._runs()
        self._defaults = _default_texts()
        given = {name: asked[name] for name in self._defaults if name in asked}
        self.form = ConfigForm(CurationSettings, {**self._defaults, **given}, prefix="")
        self.form.fields[TYPED].widget = forms.Textarea(
            attrs={"rows": 1, "spellcheck": "false", "autocomplete": "off", "autocapitalize": "off", "class": "mono"}
        )
        self.filter_error = self._filter_error()

    def is_valid(self) -> bool:
        return bool(self.runs) and not self.filter_error and self.form.is_valid()

    @property
    def settings(self) -> CurationSettings:
        config = self.form.config
        assert isinstance(config, CurationSettings)
        return config

    def mistakes(self) -> list[str]:
        """What is wrong, but with the filter, which is said below it."""
        if not self.runs:
            return ["Choose at least one eval run to take attempts from."]
        found = []
        for name, errors in self.form.errors.items():
            label = self.form.fields[name].label if name in self.form.fields else ""
            found += [f"{label}: {error}" if label else str(error) for error in errors if name != TYPED]
        return found

    # what the page shows

    @property
    def typed(self) -> BoundField:
        return self.form[TYPED]

    def knobs(self) -> Iterator[BoundField]:
        return (bound for bound in self.form.essentials() if bound.name != TYPED)

    def offered(self) -> list[EvalRun]:
        """The newest eval runs, and those already chosen."""
        found = {run.pk: run for run in [*self.runs, *curatable(self.user)[:NUM_OFFERED]]}
        return sorted(found.values(), key=lambda run: -run.pk)

    @property
    def chosen(self) -> set[int]:
        return {run.pk for run in self.runs}

    def saved_filters(self) -> list[Filter]:
        filters = Filter.objects.visible_to(self.user).order_by("name")
        if self.runs:
            filters = filters.filter(project=self.runs[0].project_id)
        return list(filters[:200])

    @property
    def num_attempts(self) -> int:
        return sum(run.num_done + run.num_errors for run in self.runs)

    @property
    def dataset_name(self) -> str:
        """As typed, else drawn from the benchmark or the first eval run."""
        return self.asked.get("name", "").strip()[:100] or self._drawn_name()

    def _drawn_name(self) -> str:
        origin = next((run.benchmark.name if run.benchmark else run.name for run in self.runs), "attempts")
        plain = re.sub(r"[^\w .\-]+", " ", origin).strip(" .-_")[:80] or "attempts"
        return f"{plain} curated"

    @property
    def url(self) -> str:
        """The workbench as it stands, mistakes included; what has its default is left away."""
        kept: list[tuple[str, Any]] = [("eval", run.pk) for run in self.runs]
        for name, default in self._defaults.items():
            if name in self.asked and (text := self.asked[name]) != default:
                kept.append((name, text))
        if self.asked.get("name", self._drawn_name()) != self._drawn_name():
            kept.append(("name", self.asked["name"]))
        return f"{reverse('curation:new')}?{urlencode(kept)}" if kept else reverse("curation:new")

    def _runs(self) -> list[EvalRun]:
        """Those that are named and may be seen, in the order named; of the first one's project."""
        texts = self.asked.getlist("eval")[:MAX_EVALS]
        asked = [int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) < 19]
        found = {run.pk: run for run in curatable(self.user).filter(pk__in=asked)}
        runs = [found[pk] for pk in dict.fromkeys(asked) if pk in found]
        return [run for run in runs if run.project_id == runs[0].project_id]

    def _filter_error(self) -> FilterError | None:
        try:
            compile_filter(str(self.form[TYPED].value() or ""))
        except FilterError as error:
            return error
        return None


def _default_texts() -> dict[str, str]:
    """What every setting looks like in a form when nobody has touched it."""
    return ConfigForm(CurationSettings, prefix="").texts()
