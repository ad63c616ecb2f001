"""What a worker does for datasets: transfers to and from the hub. Whoever wins `start()` does the work, anybody else returns."""

from __future__ import annotations

from celery import shared_task
from django.core.exceptions import PermissionDenied

from evsys_web.accounts.actions import reveal_credential
from evsys_web.datasets import hub_transfers
from evsys_web.datasets.models import Direction, HubTransfer
from recipes.errors import RecipeError


@shared_task
def transfer(transfer_id: int) -> None:
    found = HubTransfer.objects.select_related("project", "created_by", "version__dataset").filter(pk=transfer_id).first()
    if found is None or not found.start():
        return
    key: str | None = None
    try:
        if found.credential:
            key = reveal_credential(project=found.project, name=found.credential)
        if found.direction == Direction.PUSH:
            found.complete(url=hub_transfers.push(found, key or ""))
        else:
            hub_transfers.pull(found, key)
            found.complete()
    except (RecipeError, PermissionDenied) as error:
        found.fail(str(error).replace(key, "…") if key else str(error))  # a sentence may quote what a server said
    except Exception as error:
        found.fail(f"This failed in a way that nobody foresaw ({type(error).__name__}); the server's log has more.")
        raise
