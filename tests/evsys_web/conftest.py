"""Fixtures that several apps' tests share."""

from __future__ import annotations

from tests.evsys_web.workers import start_worker as start_worker
