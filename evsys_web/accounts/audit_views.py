"""The audit log: for admins of projects what was done in these, for everybody what they did to their own account."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_safe

from evsys_web.accounts.audit_export import FORMATS, export
from evsys_web.accounts.models import AuditEntry, Project, User
from evsys_web.accounts.views import signed_in

ENTRIES_PER_PAGE = 50


class AuditForm(forms.Form):
    """What of the log is looked at; a mistake looks at everything and says so."""

    project = forms.ModelChoiceField(Project.objects.none(), required=False, empty_label="All of yours")
    user = forms.CharField(required=False, max_length=150, label="Who")
    thing = forms.CharField(required=False, max_length=200, label="What", help_text="Words of its name, kind or action.")
    since = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    use_required_attribute = False

    def __init__(self, *args: Any, viewer: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.viewer = viewer
        projects = self.fields["project"]
        assert isinstance(projects, forms.ModelChoiceField)
        projects.queryset = Project.objects.administered_by(viewer).order_by("name", "pk")

    def entries(self) -> QuerySet[AuditEntry]:
        found: QuerySet[AuditEntry] = AuditEntry.objects.visible_to(self.viewer)
        asked = self.cleaned_data if self.is_valid() else {}
        return narrowed(found, **{name: value for name, value in asked.items() if value})


def narrowed(entries: QuerySet[AuditEntry], **asked: Any) -> QuerySet[AuditEntry]:
    """Only those of a project, by a person, about a thing with these words, between two days (both included, UTC)."""
    if project := asked.get("project"):
        entries = entries.filter(project=project)
    if user := asked.get("user"):
        entries = entries.filter(username__icontains=str(user).replace("\0", ""))
    for word in str(asked.get("thing") or "").replace("\0", "").split()[:8]:
        entries = entries.about(word)  # type: ignore[attr-defined]
    if since := asked.get("since"):
        entries = entries.filter(created_at__date__gte=since)
    if until := asked.get("until"):
        entries = entries.filter(created_at__date__lte=until)
    return entries


@require_safe
def audit(request: HttpRequest) -> HttpResponse | HttpResponseBase:
    """With ?format=csv or jsonl, as a file."""
    form = AuditForm(request.GET, viewer=signed_in(request))
    entries = form.entries()
    if (format := request.GET.get("format")) in FORMATS:
        return export(entries, str(format))
    page = Paginator(entries.select_related("project"), ENTRIES_PER_PAGE).get_page(request.GET.get("page"))
    is_filtered = any(request.GET.get(name) for name in form.fields)
    return render(request, "accounts/audit.html", {"form": form, "page": page, "is_filtered": is_filtered})
