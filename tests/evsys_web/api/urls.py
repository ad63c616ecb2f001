"""A small API on the product's own ground (auth, errors, idempotency, pagination), with operations that go wrong on purpose."""

from __future__ import annotations

import time

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import Http404
from django.urls import include, path
from ninja import File, Query, Schema, Status
from ninja.files import UploadedFile
from pydantic import Field

from evsys_web.accounts.models import Project, User
from evsys_web.api import errors
from evsys_web.api.api import Api
from evsys_web.api.auth import TokenAuth, caller
from evsys_web.api.errors import Conflict
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.urls import open_to_tokens
from evsys_web.urls import urlpatterns as product
from recipes.errors import BackendError, ConfigError, DataError

api = Api(title="Test", version="test", urls_namespace="api", auth=TokenAuth())
errors.install(api)


class Inner(Schema):
    rate: float = Field(gt=0, le=1)


class Body(Schema):
    name: str = Field(max_length=10)
    inner: list[Inner] = []


class Named(Schema):
    id: int
    name: str


@api.post("/v1/things", response={201: Named})
@idempotent
def create_thing(request: HttpRequest, body: Body) -> Status[Project]:
    if body.name == "slow":
        time.sleep(0.4)
    if body.name == "broken":
        raise RuntimeError("the secret of the database")
    if body.name == "taken":
        raise Conflict("There is one already.")
    return Status(201, Project.objects.create_for(caller(request), name=body.name))


@api.post("/v1/files", response={201: Named})
@idempotent
def upload(request: HttpRequest, file: File[UploadedFile]) -> Status[Project]:
    return Status(201, Project.objects.create_for(caller(request), name=file.read().decode()[:20]))


@api.post("/v1/files/body", response={201: Named})
@idempotent
def upload_body(request: HttpRequest) -> Status[Project]:
    size = 0
    while chunk := request.read(65536):
        size += len(chunk)
    return Status(201, Project.objects.create_for(caller(request), name=f"{size} bytes"))


@api.get("/v1/things", response=Page[Named])
def list_things(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(Project.objects.visible_to(caller(request)), query)


FAILURES: dict[str, Exception] = {
    "bug": ZeroDivisionError("the secret of the database"),
    "config": ConfigError("The rate must be positive.", path=("algorithm", "params", 2, "rate")),
    "data": DataError("Unknown role.", line=3, field="messages[0].role"),
    "service": BackendError("The service is away.", permanent=False),
    "forbidden": PermissionDenied("Only an owner may delete."),
    "absent": Http404("row 7 of table x"),
    "missing": User.DoesNotExist("internal"),
}


@api.get("/v1/fails/{kind}")
def fail(request: HttpRequest, kind: str) -> None:
    raise FAILURES[kind]


patterns, app_name, namespace = api.urls
urlpatterns = [
    *(entry for entry in product if str(entry.pattern) != "api/"),
    path("api/", include((open_to_tokens(patterns), app_name), namespace=namespace)),
]
