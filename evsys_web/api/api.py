"""One NinjaAPI; every app mounts its router here."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from evsys_web.api import errors
from evsys_web.api.auth import TokenAuth
from evsys_web.api.bodies import describe
from evsys_web.api.document import kept
from evsys_web.api.rates import TokenThrottle

DESCRIPTION = """Everything a page can do.

**Sign in** by a token from the API tokens page: `Authorization: Bearer evs_…`. Reading needs the scope *read*, all else *write*.

**Create** calls take an `Idempotency-Key` header: the same key with the same body gives the same answer for 24 hours.

**Rates** are counted per token and minute: `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds) say how it stands; beyond it
the answer is 429 with `Retry-After`.

**Lists** return `{items, next_cursor}`; pass `next_cursor` as `cursor` to go on.

**Refusals** are problem+json: `{type, title, status, detail, errors: [{field, message, rule}]}`."""

TAGS = {
    "datasets": "Rows and their versions: upload, splits, differences, the hub",
    "runs": "Training: launch, stop, resume, points, checkpoints; runs that are trained elsewhere",
    "evals": "k attempts per task: launch, import, attempts, comparison",
    "benchmarks": "Tasks with what decides whether a reply is right",
    "checkpoints": "Weights: scores, files, merging, chat",
    "curation": "Attempts that become rows: preview, publish, filters, lineage",
    "cycles": "Evaluate, curate, train and evaluate again, as one",
    "sweeps": "Runs over the values of settings and seeds",
    "queue": "What waits, in which order, and limits",
    "notifications": "Who is told, and what was sent",
    "projects": "People, roles, invitations",
    "credentials": "Keys of other services",
    "audit": "Who changed what",
}
"""In the order in which the document's page has them."""


class Api(NinjaAPI):
    """Documents the one error shape on every operation, instead of leaving it to each."""

    def get_openapi_schema(self, **kwargs: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**kwargs)
        components = schema["components"]
        schemas = components.setdefault("schemas", {})
        schemas.update(_problem_schemas())
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        components["responses"] = {
            "Refused": {"description": "Refused; see the sentence.", "content": {errors.MEDIA_TYPE: problem}}
        }
        operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
        for operation in operations:
            operation["responses"].setdefault("default", {"$ref": "#/components/responses/Refused"})
        schemas.update(describe(operations, schemas))
        schema["paths"] = deepcopy(schema["paths"])  # the document is its reader's; parts of it are the routers' own
        return schema


def _problem_schemas() -> dict[str, Any]:
    whole = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    parts: dict[str, Any] = whole.pop("$defs")
    return {**parts, "Problem": whole}


api = Api(
    title="EvSys Web",
    version="1",
    description=DESCRIPTION,
    urls_namespace="api",
    docs_url="/docs",
    openapi_url="/openapi.json",
    docs_decorator=kept,
    openapi_extra={"tags": [{"name": name, "description": sentence} for name, sentence in TAGS.items()]},
    auth=TokenAuth(),
    throttle=TokenThrottle(),
)
errors.install(api)
api.add_router("/v1/datasets", "evsys_web.datasets.api.router")
api.add_router("/v1/hub-transfers", "evsys_web.datasets.hub_api.router")
api.add_router("/v1/runs", "evsys_web.runs.api.router")
api.add_router("/v1/evals", "evsys_web.evals.api.router")
api.add_router("/v1/checkpoints", "evsys_web.checkpoints.api.router")
api.add_router("/v1/checkpoints", "evsys_web.checkpoints.exports_api.router")
api.add_router("/v1/evals", "evsys_web.evals.import_api.router")
api.add_router("/v1/evals", "evsys_web.curation.api.of_attempts")
api.add_router("/v1/datasets", "evsys_web.curation.api.of_rows")
api.add_router("/v1/curations", "evsys_web.curation.api.router")
api.add_router("/v1/filters", "evsys_web.curation.api.filters")
api.add_router("/v1/cycles", "evsys_web.cycles.api.router")
api.add_router("/v1/sweeps", "evsys_web.sweeps.api.router")
api.add_router("/v1/queue", "evsys_web.queue.api.router")
api.add_router("/v1/credentials", "evsys_web.accounts.api.router")
api.add_router("/v1/projects", "evsys_web.accounts.projects_api.router")
api.add_router("/v1/audit", "evsys_web.accounts.audit_api.router")
api.add_router("/v1/benchmarks", "evsys_web.evals.benchmarks_api.router")
api.add_router("/v1/notifications", "evsys_web.notifications.api.router")
