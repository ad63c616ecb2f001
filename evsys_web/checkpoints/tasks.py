"""What a worker does for an export. As for training, a message is only a hint: whoever wins `export.start()` does the work."""

from __future__ import annotations

import socket

from celery import Task, shared_task

from evsys_web.checkpoints.exporting import make_export
from evsys_web.checkpoints.models import Export
from evsys_web.checkpoints.recorder import ExportRecorder
from evsys_web.runs.leases import announcing_the_end


@shared_task(bind=True)
def export_checkpoint(self: Task, export_id: int) -> None:
    """Merge, or push."""
    export = Export.objects.select_related("checkpoint__run", "project").filter(pk=export_id).first()
    if export is None or not export.start(self.request.hostname or socket.gethostname()):
        return
    with announcing_the_end(), ExportRecorder(export) as recorder:
        export.run_begun()
        make_export(export, recorder)
