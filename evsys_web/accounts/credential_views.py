"""The page of one stored key: what is known of it, and whether it works."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from evsys_web.accounts.connection_tests import try_connection
from evsys_web.accounts.forms import ConnectionForm
from evsys_web.accounts.models import BackendCredential
from evsys_web.accounts.permissions import require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.rates import TooOften
from recipes.errors import ConfigError


@never_cache
@require_safe
def credential(request: HttpRequest, pk: int) -> HttpResponse:
    found = _found(request, pk)
    form = ConnectionForm(initial={"kind": found.kind, "base_url": found.base_url})
    return render(request, "accounts/credential.html", {"credential": found, "form": form})


@require_POST
def test(request: HttpRequest, pk: int) -> HttpResponse:
    found = _found(request, pk)
    require_editor(signed_in(request), found.project)
    form = ConnectionForm(request.POST)
    if form.is_valid():
        try:
            try_connection(user=signed_in(request), credential=found, **form.cleaned_data)
        except ConfigError as error:
            form.add_error("base_url" if error.path == ("base_url",) else None, str(error))
        except TooOften as error:
            messages.info(request, str(error))
            return redirect("accounts:credential", pk)
        else:
            return redirect("accounts:credential", pk)
    return render(request, "accounts/credential.html", {"credential": found, "form": form}, status=422)


def _found(request: HttpRequest, pk: int) -> BackendCredential:
    visible = BackendCredential.objects.visible_to(signed_in(request)).select_related("project", "created_by")
    found: BackendCredential = get_object_or_404(visible, pk=pk)
    return found
