"""The page on which a checkpoint and its base answer the same, and the stream of their answers."""

from __future__ import annotations

import json

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from evsys_web.accounts.permissions import require_editor
from evsys_web.accounts.views import signed_in
from evsys_web.checkpoints.chat import LONGEST_TEXT, ChatSettings, checked, stream_opening, stream_replies
from evsys_web.checkpoints.views import found, frame_of
from evsys_web.config_forms import ConfigForm
from evsys_web.runs.models import Checkpoint
from recipes.errors import RecipeError


@require_safe
def chat(request: HttpRequest, pk: int) -> HttpResponse:
    context = frame_of(_chattable(request, pk)) | {"settings": ConfigForm(ChatSettings, prefix=""), "longest": LONGEST_TEXT}
    return render(request, "checkpoints/chat.html", context)


@require_POST
def opening(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Reads the models while the person still types."""
    checkpoint = _chattable(request, pk)
    try:
        return stream_opening(checkpoint)
    except RecipeError as error:
        return _refused(str(error))


@require_POST
def replies(request: HttpRequest, pk: int) -> HttpResponseBase:
    """From JSON; ends when the browser hangs up. A refusal is 422 with a sentence."""
    checkpoint = _chattable(request, pk)
    try:
        return stream_replies(checkpoint, checked(json.loads(request.body)))
    except RecipeError as error:
        return _refused(str(error))
    except (ValueError, RecursionError):
        return _refused("This is not JSON.")


def _chattable(request: HttpRequest, pk: int) -> Checkpoint:
    """Answers take the machine's time, so they are an editor's."""
    checkpoint = found(request, pk)
    require_editor(signed_in(request), checkpoint.run.project)
    return checkpoint


def _refused(sentence: str) -> JsonResponse:
    return JsonResponse({"message": sentence}, status=422)
