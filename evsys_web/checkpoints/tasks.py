"""What a worker does for an export. As for training, a message is only a hint that something waits."""

from __future__ import annotations

from celery import Task, shared_task

from evsys_web.checkpoints.exporting import make_export
from evsys_web.checkpoints.models import Export
from evsys_web.checkpoints.recorder import ExportRecorder
from evsys_web.runs.leases import announcing_the_end
from evsys_web.runs.tasks import taken


@shared_task(bind=True)
def export_checkpoint(self: Task, export_id: int) -> None:
    """Merge, or push."""
    export = taken(self, Export, export_id)
    if export is None:
        return
    with announcing_the_end(), ExportRecorder(export) as recorder:
        export.run_begun()
        make_export(export, recorder)
