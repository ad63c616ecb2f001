"""Fireworks on loopback, as the real SDK talks to it: datasets, managed jobs, models, checkpoints. It can be told to misbehave.

`with fireworks_server() as server:`. Every request is kept as data in `server.requests`. A job walks through `server.walk`, one
state per look; its metrics file grows with it, behind an address that is another at every look and leads nowhere at first.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.fireworks_http import Handler
from tests.fireworks_serving import Serving
from tests.fireworks_sessions import Sessions, shown
from tests.fireworks_trainers import Trainers
from tests.fireworks_wire import ACCOUNT, KEY, MODEL, Request, missing, parts

__all__ = ["ACCOUNT", "KEY", "MODEL", "Request"]


class State(NamedTuple):
    """One look at a job: its state, how many of the metric lines are written by then, and what it says."""

    name: str
    num_lines: int = 0
    message: str = ""
    percent: int | None = None


WALK = [State("CREATING"), State("VALIDATING"), State("RUNNING", 2, percent=30), State("RUNNING", 3), State("COMPLETED", 4)]
JOB_IDS = {f"{kind}Jobs": f"{kind}JobId" for kind in ("supervisedFineTuning", "dpo", "reinforcementFineTuning")}
LINES = [
    '{"step": 1, "train/loss": 2.0, "train/ce_loss": 2.0, "train/ppl": 7.39, "train/lr": 0.0001, "train/total_tokens": 100}',
    '{"step": 2, "train/loss": 1.5, "train/lr": 0.0001, "train/total_tokens": 210, "eval/loss": 1.7, "eval/tokens": 40}',
    '{"step": 3, "train/loss": 1.0, "train/total_tokens": 300, "perf/fwd_bwd_time": 0.5}',
    '{"step": 4, "train/loss": null, "train/total_tokens": 400, "eval/loss": 1.2}',
]


@dataclass
class Job:
    body: dict[str, Any]
    walk: list[State]
    looks: int = 0
    ended: str = ""

    @property
    def at(self) -> State:
        now = self.walk[min(self.looks, len(self.walk)) - 1] if self.looks else self.walk[0]
        return State(self.ended, now.num_lines) if self.ended else now


@dataclass
class Dataset:
    body: dict[str, Any]
    content: bytes = b""
    state: str = "UPLOADING"
    looks_left: int = 1


Fault = Callable[[Request], tuple[int, Any] | None]


@dataclass
class FireworksServer:
    """walk, lines: of every job made from now on. faults: asked first; (status, answer) instead of the real one, 0 hangs up.
    models: resource names → fields. checkpoints: rows of the next list."""

    url: str = ""
    walk: list[State] = field(default_factory=lambda: list(WALK))
    lines: list[str] = field(default_factory=lambda: list(LINES))
    accounts: list[str] = field(default_factory=lambda: [ACCOUNT])
    models: dict[str, dict[str, Any]] = field(default_factory=lambda: {MODEL: {"tunable": True, "supportsLora": True}})
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    evaluators: dict[str, str] = field(default_factory=lambda: {"sums": "ACTIVE"})
    makes_model: bool = True
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)
    sessions: Sessions = field(default_factory=Sessions)
    trainers: Trainers = field(default_factory=Trainers)
    refused_rows: str = ""
    metrics_404: int = 1
    signed: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def count(self, method: str, pattern: str) -> int:
        return sum(each.method == method and re.search(pattern, each.path) is not None for each in self.requests)

    def last(self, method: str, pattern: str) -> Request:
        return next(each for each in reversed(self.requests) if each.method == method and re.search(pattern, each.path))

    def answer(self, request: Request) -> tuple[int, Any]:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if (found := fault(request)) is not None:
                    return found
            if request.path.startswith("/signed/"):
                return self._signed(request)
            given = request.headers.get("authorization") or f"Bearer {request.headers.get('x-api-key')}"
            if given != f"Bearer {KEY}":
                return 401, {"code": 16, "message": "The API key you provided is invalid."}
            if request.path == "/v1/accounts":
                return 200, {"accounts": [{"name": f"accounts/{name}"} for name in self.accounts]}
            if request.path.startswith("/inference/"):
                return self.serving.chat(request)
            if request.path.startswith("/training/"):
                is_healthy = request.path.endswith("/healthz") and self.trainers.is_healthy(request.path.split("/")[5])
                return (200, {}) if is_healthy else missing(request.path)
            owner, collection, name, verb = parts(request.path)
            if owner not in (ACCOUNT, "fireworks"):
                return 403, {"code": 7, "message": f"no access to account {owner}"}
            if collection == "datasets":
                return self._datasets(request, name, verb)
            if collection == "models":
                return self._models(request, f"accounts/{owner}/models/{name}")
            if collection == "trainingSessions":
                return self.sessions.answer(request, name, verb, self.models)
            if collection in ("trainingShapes", "rlorTrainerJobs", "checkpoints"):
                return self.trainers.answer(request, collection, name, verb, self.models)
            if collection == "operations" and name == "2":
                return 200, {"name": request.path, "done": False}
            if collection == "operations":
                return 200, {"name": request.path, "done": True, "error": {"code": 13, "message": self.sessions.failure}}
            if collection in ("deployments", "deploymentShapeVersions"):
                return self.serving.answer(request, collection, name, verb, self.models)
            if collection == "evaluators":
                state = self.evaluators.get(name)
                return (200, {"name": name, "state": state}) if state else missing(name)
            if collection in JOB_IDS:
                return self._jobs(request, collection, name, verb)
            return missing(request.path)

    def _models(self, request: Request, name: str) -> tuple[int, Any]:
        fields = self.models.get(name)
        if fields is None:
            return missing(name)
        if request.method == "DELETE":
            del self.models[name]
            return 200, {}
        return 200, {"name": name, **shown(fields)}

    def _datasets(self, request: Request, name: str, verb: str) -> tuple[int, Any]:
        if request.method == "POST" and not name:
            body = request.json
            if body["datasetId"] in self.datasets:
                return 409, {"code": 6, "message": "already exists"}
            self.datasets[body["datasetId"]] = made = Dataset(body["dataset"])
            return 200, self._dataset(body["datasetId"], made)
        found = self.datasets.get(name)
        if found is None:
            return missing(name)
        if request.method == "DELETE":
            del self.datasets[name]
            return 200, {}
        if verb == "upload":
            found.content, found.state = _file_of(request), "PROCESSING"
        elif verb == "getUploadEndpoint":
            urls = dict.fromkeys(request.json["filenameToSize"], f"{self.url}/signed/upload/{name}")
            return 200, {"filenameToSignedUrls": urls}
        elif verb == "validateUpload":
            found.state = "PROCESSING"
        elif found.state == "PROCESSING":
            found.looks_left -= 1
            if found.looks_left < 0 and not self.refused_rows:
                found.state = "READY"
        return 200, self._dataset(name, found)

    def _dataset(self, name: str, dataset: Dataset) -> dict[str, Any]:
        status = {"code": "INVALID_ARGUMENT", "message": self.refused_rows} if self.refused_rows else {"code": "OK"}
        state = "READY" if dataset.state == "READY" else "UPLOADING"
        return {"name": f"accounts/{ACCOUNT}/datasets/{name}", "state": state, "status": status, **dataset.body}

    def _jobs(self, request: Request, collection: str, name: str, verb: str) -> tuple[int, Any]:
        if request.method == "POST" and not name:
            return self._create(request, collection)
        name, _, below = name.partition("/")
        if verb == "promote":
            self.models[request.json["output_model"]] = {}
            return 200, {"operation": {"name": "operations/1", "done": False}}
        job = self.jobs.get(name)
        if job is None:
            return missing(name)
        if below == "checkpoints":
            return 200, {"checkpoints": self.checkpoints}
        if verb == "cancel":
            if job.at.name in ("COMPLETED", "FAILED", "CANCELLED"):
                return 400, {"code": 9, "message": f"the job is {job.at.name}"}
            job.ended = "CANCELLED"
        elif verb == "resume":
            if job.ended != "CANCELLED":
                return 400, {"code": 9, "message": "only cancelled jobs can be resumed"}
            job.ended = ""
        elif verb == "getMetricsFileEndpoint":
            return 200, {"signedUrl": self._metrics_url(name)}
        else:
            job.looks += 1
            if job.at.name in ("COMPLETED", "EARLY_STOPPED") and self.makes_model:
                self.models.setdefault(_output_of(job.body), {})
        return 200, self._job(collection, name, job)

    def _create(self, request: Request, collection: str) -> tuple[int, Any]:
        name = request.query.get(JOB_IDS[collection], "")
        if not re.fullmatch(r"[a-z0-9-]{1,63}", name):
            return 400, {"code": 3, "message": "an id of our own is required"}
        if name in self.jobs:
            return 409, {"code": 6, "message": "already exists"}
        body = request.json
        if body["dataset"].rpartition("/")[2] not in self.datasets:
            return 404, {"code": 5, "message": f"no dataset {body['dataset']}"}
        self.jobs[name] = made = Job(body, list(self.walk))
        return 200, self._job(collection, name, made)

    def _job(self, collection: str, name: str, job: Job) -> dict[str, Any]:
        now = job.at
        answer = {"name": f"accounts/{ACCOUNT}/{collection}/{name}", "state": f"JOB_STATE_{now.name}", **job.body}
        answer["status"] = {"code": "OK", "message": now.message}
        if collection.startswith("rein") and now.num_lines:
            answer["outputMetrics"] = f"[{', '.join(self.lines[: now.num_lines])}]"
        if collection.startswith("sup"):
            answer["metricsFileSignedUrl"] = self._metrics_url(name)
            if now.percent is not None:
                answer["jobProgress"] = {"percent": now.percent, "inputTokens": 10 * now.percent}
            if now.name == "COMPLETED":
                answer["estimatedCost"] = {"currencyCode": "USD", "units": "12", "nanos": 500_000_000}
        return answer

    def _metrics_url(self, name: str) -> str:
        self.signed += 1
        return f"{self.url}/signed/metrics/{name}?signature={self.signed}"

    def _signed(self, request: Request) -> tuple[int, Any]:
        _, _, what, name = request.path.split("/")
        if what == "upload":
            self.datasets[name].content = request.body
            return 200, b""
        if self.metrics_404 > 0:
            self.metrics_404 -= 1
            return 404, b"<Error>NoSuchKey</Error>"
        lines = self.lines[: self.jobs[name].at.num_lines]
        return 200, "".join(f"{line}\n" for line in lines).encode()


def _output_of(body: dict[str, Any]) -> str:
    return str(body.get("outputModel") or body["trainingConfig"]["outputModel"])


def _file_of(request: Request) -> bytes:
    """The one part of a multipart body."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    assert boundary is not None
    part = request.body.split(b"--" + boundary[1].encode())[1]
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


@contextmanager
def fireworks_server() -> Iterator[FireworksServer]:
    state = FireworksServer()
    handler = type("Handler", (Handler,), {"fireworks": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
