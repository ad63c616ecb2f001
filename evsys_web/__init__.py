"""The web half: remembers, permits and shows. `recipes` trains."""

from evsys_web.celery import app as celery_app

__all__ = ["celery_app"]
