"""The page that brings in a cycle which was exported elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods
from django_htmx.http import HttpResponseClientRedirect

from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import editors_only
from evsys_web.accounts.views import signed_in
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.datasets.views import on_disk
from recipes.errors import RecipeError


class ImportForm(forms.Form):
    file = forms.FileField(help_text="The zip that Export gave.", widget=forms.FileInput(attrs={"accept": ".zip"}))
    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None, help_text="Where everything goes.")

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        projects = self.fields["project"]
        assert isinstance(projects, forms.ModelChoiceField)
        projects.queryset = Project.objects.editable_by(user).order_by("pk")
        projects.initial = user.default_project().pk


@require_http_methods(["GET", "HEAD", "POST"])
@editors_only
def upload(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    sent = (request.POST, request.FILES) if request.method == "POST" else (None, None)
    form = ImportForm(*sent, user=user)
    if request.method == "POST" and form.is_valid():
        file = on_disk(form.cleaned_data["file"])
        try:
            cycle = import_cycle(user=user, project=form.cleaned_data["project"], path=Path(file.temporary_file_path()))
        except RecipeError as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.success(request, "The cycle is imported, and its rounds were judged anew from their attempts.")
            # The script that shows progress goes there itself, so that the page is fetched once.
            url = cycle.get_absolute_url()
            return HttpResponseClientRedirect(url) if request.headers.get("X-Progress") else redirect(url)
    return render(request, "cycles/import.html", {"form": form}, status=422 if form.errors else 200)
