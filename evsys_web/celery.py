"""The Celery application. A message only hints that a row waits; the row is the queue (see runs/models.py)."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evsys_web.settings")

app = Celery("evsys_web")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
