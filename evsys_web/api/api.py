"""One NinjaAPI; every app mounts its router here."""

from __future__ import annotations

from ninja import NinjaAPI

api = NinjaAPI(title="EvSys Web", version="1", urls_namespace="api", docs_url="/docs", openapi_url="/openapi.json")
