"""The operator's page, and /metrics: for superusers alone, since both show the work of every project."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from evsys_web.accounts.connection_tests import try_storage
from evsys_web.accounts.models import ApiToken
from evsys_web.accounts.views import signed_in
from evsys_web.home import operations
from evsys_web.home.exposition import exposition
from evsys_web.home.models import Worker
from evsys_web.rates import TooOften
from recipes.probes import Outcome


@never_cache
@require_safe
@vary_on_headers("HX-Request")
def operations_page(request: HttpRequest) -> HttpResponse:
    if not signed_in(request).is_superuser:
        raise Http404
    context = {
        "workers": list(Worker.objects.all()),
        "queues": operations.queues(),
        "held": operations.held(),
        "troubles": operations.troubles(),
        "disk": operations.disk(),
        "database_bytes": operations.database_bytes(),
        "home": settings.HOME,
        "bucket": operations.bucket_address(),
    }
    template = "home/_operations.html" if request.htmx else "home/operations.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_POST
def test_storage(request: HttpRequest) -> HttpResponse:
    user, address = signed_in(request), operations.bucket_address()
    if not user.is_superuser or not address:
        raise Http404
    try:
        found = try_storage(user=user, address=address)
    except TooOften as error:
        messages.info(request, str(error))
    else:
        say = messages.success if found.outcome is Outcome.WORKS else messages.error
        say(request, f"{address}: {found.sentence}")
    return redirect("home:operations")


@never_cache
@login_not_required
def metrics(request: HttpRequest) -> HttpResponseBase:
    """For a superuser's API token (any scope), or their browser. A loopback address is no proof: a proxy has one, too."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        token = ApiToken.objects.matching(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None or not token.user.is_superuser:
            sentence = "Give the API token of a superuser: Authorization: Bearer evs_…\n"
            return HttpResponse(sentence, status=401, content_type="text/plain", headers={"WWW-Authenticate": "Bearer"})
        ApiToken.objects.touch(token.pk)
    elif not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    elif not signed_in(request).is_superuser:
        raise Http404
    return _told(request)


@require_safe
def _told(request: HttpRequest) -> HttpResponse:
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)
