"""Fireworks' managed jobs through the official SDK: datasets in, jobs watched, models out.

A create is never trusted to have happened once: the SDK tries again by itself, and a worker may be killed between the call and
its answer. So every id is the caller's, and "it is there already" is answered by looking whether it is the same.

Signed addresses of uploads and metrics are used here and told to nobody. They must be https, or lie on the very server that gave
them, and the key is not sent there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fireworks
import httpx

from recipes.backends.fireworks.account import FireworksAccount
from recipes.backends.fireworks.config import FireworksConfig, check_model_name
from recipes.backends.fireworks.deployments import remove_deployment
from recipes.backends.fireworks.failures import failures
from recipes.backends.fireworks.trainers import TRAINER, remove_trainer
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.managed_jobs import JobCheckpoint, JobKind, JobOrder, JobPhase, JobStanding
from recipes.resources import Resource

UPLOAD_AT_ONCE_BYTES = 150_000_000
"""What the service takes in one request; larger files go to an address that it signs."""
LONGEST_MESSAGE = 1000
MOST_METRIC_BYTES = 256_000_000
READY_POLL_SECONDS = (0.2, 10.0)
PLAIN = (None, "", "ENCRYPTION_STATE_UNSPECIFIED", "ENCRYPTION_STATE_PLAINTEXT")

JOB_IDS = {
    JobKind.SFT: "supervised_fine_tuning_job_id",
    JobKind.DPO: "dpo_job_id",
    JobKind.RFT: "reinforcement_fine_tuning_job_id",
}
REFUSALS = (fireworks.BadRequestError, fireworks.ConflictError)

COLLECTIONS = {
    JobKind.SFT: "supervisedFineTuningJobs",
    JobKind.DPO: "dpoJobs",
    JobKind.RFT: "reinforcementFineTuningJobs",
}
PHASES = {
    "CREATING": JobPhase.WAITING,
    "VALIDATING": JobPhase.WAITING,
    "CREATING_INPUT_DATASET": JobPhase.WAITING,
    "PENDING": JobPhase.WAITING,
    "RE_QUEUEING": JobPhase.WAITING,
    "UNSPECIFIED": JobPhase.WAITING,
    "IDLE": JobPhase.WAITING,
    "RUNNING": JobPhase.RUNNING,
    "WRITING_RESULTS": JobPhase.RUNNING,
    "CANCELLING": JobPhase.RUNNING,
    "PAUSED": JobPhase.PAUSED,
    "COMPLETED": JobPhase.SUCCEEDED,
    "EARLY_STOPPED": JobPhase.ENDED_EARLY,
    "FAILED": JobPhase.FAILED,
    "EXPIRED": JobPhase.FAILED,
    "CANCELLED": JobPhase.CANCELLED,
    "DELETING": JobPhase.CANCELLED,
    "DELETING_CLEANING_UP": JobPhase.CANCELLED,
}


class FireworksJobs(FireworksAccount):
    """`recipes.managed_jobs.ManagedJobs` on Fireworks."""

    def __init__(
        self, settings: FireworksConfig, key: str, *, wait: Callable[[float], None] = time.sleep, account: str = ""
    ) -> None:
        """wait: how to pause between questions; it may raise to give up. The rest as FireworksAccount."""
        super().__init__(settings, key, account=account)
        self._wait = wait
        self._metrics_at: dict[str, str | None] = {}
        self._metrics_said: dict[str, str] = {}

    def check_model(self, name: str, *, rank: int, kind: JobKind) -> None:
        check_model_name(name)
        _, owner, _, model_id = name.split("/")
        with failures(f"the model {name}", self.place):
            found = self._unless_missing(lambda: self._client.models.get(model_id, account_id=owner))
        if found is None:
            raise ConfigError(f"{self.place} has no model {name} that this key may see.", path=("model", "name"))
        if found.tunable is False:
            raise ConfigError(f"{self.place} does not fine-tune {name}. Choose another model.", path=("model", "name"))
        if rank and found.supports_lora is False:
            raise ConfigError(
                f"{name} takes no adapters at {self.place}: set lora_rank to 0, or choose another model.",
                path=("algorithm", "params", "lora_rank"),
            )
        flag, how = _tunable(kind, rank)
        if (found.model_extra or {}).get(flag) is False:
            raise ConfigError(f"{self.place} does not fine-tune {name} {how}. Choose another model.", path=("model", "name"))

    def check_evaluator(self, name: str) -> None:
        _, owner, _, evaluator_id = self._evaluator_name(name).split("/")
        place = ("algorithm", "params", "evaluator")
        with failures(f"the evaluator {name}", self.place):
            found = self._unless_missing(lambda: self._client.evaluators.get(evaluator_id, account_id=owner))
        if found is None:
            raise ConfigError(f"{self.place} has no evaluator {name} that this key may see. Register it there first.", path=place)
        if found.state in ("BUILDING", "BUILD_FAILED"):
            outcome = "is still being built: wait until it is active" if found.state == "BUILDING" else "could not be built"
            raise ConfigError(f"The evaluator {name} at {self.place} {outcome}.", path=place)

    # datasets

    def put_dataset(self, dataset_id: str, path: Path, *, num_rows: int, title: str) -> None:
        num_bytes = path.stat().st_size
        with failures("the new dataset", self.place):
            try:
                made = self._client.datasets.create(
                    dataset_id=dataset_id,
                    dataset={"user_uploaded": {}, "format": "CHAT", "example_count": str(num_rows), "display_name": title},
                )
            except fireworks.ConflictError:
                made = self._client.datasets.get(dataset_id)
        if made.example_count not in (None, str(num_rows)):
            raise BackendError(
                f"The dataset {dataset_id} is at {self.place} already, with {made.example_count} rows instead of {num_rows}.",
                permanent=True,
                kind=ErrorKind.REQUEST,
            )
        if (encryption := (made.model_extra or {}).get("encryptionState")) not in PLAIN:
            raise BackendError(
                f"{self.place} wants this account's datasets encrypted ({encryption}), which is not done here. Nothing was sent.",
                permanent=True,
            )
        if made.state == "READY":
            return
        with failures("the upload of the rows", self.place):
            if num_bytes <= UPLOAD_AT_ONCE_BYTES:
                with path.open("rb") as file:
                    self._client.datasets.upload(dataset_id, file=(path.name, file), timeout=self._upload_timeout(num_bytes))
            else:
                self._upload_signed(dataset_id, path, num_bytes)
        self._await_dataset(dataset_id)

    def _upload_signed(self, dataset_id: str, path: Path, num_bytes: int) -> None:
        answer = self._client.datasets.get_upload_endpoint(dataset_id, filename_to_size={path.name: str(num_bytes)})
        url = self._trusted((answer.filename_to_signed_urls or {}).get(path.name), "where to upload the rows")
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(num_bytes),
            "X-Goog-Content-Length-Range": f"{num_bytes},{num_bytes}",
        }
        with path.open("rb") as file:
            stored = self._bare.put(url, content=file, headers=headers, timeout=self._upload_timeout(num_bytes))
        if stored.status_code >= 400:
            raise BackendError(
                f"The store that {self.place} named took no rows (status {stored.status_code}).",
                permanent=stored.status_code < 500,
                kind=ErrorKind.SERVER,
            )
        self._client.datasets.validate_upload(dataset_id, body={})

    def _await_dataset(self, dataset_id: str) -> None:
        deadline = time.monotonic() + 3600
        pause, longest = READY_POLL_SECONDS
        while time.monotonic() < deadline:
            with failures("the state of the dataset", self.place):
                found = self._client.datasets.get(dataset_id)
            if found.state == "READY":
                return
            status = found.status
            if status is not None and status.code not in (None, "OK"):
                raise BackendError(
                    f"{self.place} refused the rows: {status.message or status.code}.", permanent=True, kind=ErrorKind.REQUEST
                )
            self._wait(pause)
            pause = min(longest, pause * 1.5)
        raise BackendError(
            f"{self.place} did not finish reading the rows within an hour.", permanent=False, kind=ErrorKind.TIMEOUT
        )

    # jobs

    def create(self, order: JobOrder) -> None:
        origin = {"warm_start_from": order.warm_start} if order.warm_start else {"base_model": order.base_model}
        settings = {**order.settings, **origin, "output_model": order.output_model}
        dataset = self._dataset_name(order.dataset)
        values: dict[str, Any] = {"dataset": dataset, "display_name": order.title}
        if order.kind is JobKind.SFT:
            values |= settings
        else:
            values |= {"training_config": settings, "loss_config": order.loss}
        if order.evaluator:
            values |= {"evaluator": self._evaluator_name(order.evaluator), "inference_parameters": order.sampling}
        values |= order.further
        if order.renderer:
            values["renderer_hugging_face_repo_id"] = order.renderer
        if order.evaluation:
            values["evaluation_dataset"] = self._dataset_name(order.evaluation)
        with failures("the new job", self.place):
            try:
                self._resource(order.kind).create(**{JOB_IDS[order.kind]: order.job_id}, **values)
            except fireworks.ConflictError:
                there = self._get(order.kind, order.job_id)
                if there.dataset != dataset:
                    raise BackendError(
                        f"A job {order.job_id} is at {self.place} already, made of other rows.",
                        permanent=True,
                        kind=ErrorKind.REQUEST,
                    ) from None

    def look(self, kind: JobKind, job_id: str) -> JobStanding | None:
        with failures("the state of the job", self.place):
            found = self._unless_missing(lambda: self._get(kind, job_id))
        if found is None:
            return None
        self._metrics_at[job_id] = getattr(found, "metrics_file_signed_url", None)
        self._metrics_said[job_id] = getattr(found, "output_metrics", None) or ""
        state = _state(found)
        progress, status = getattr(found, "job_progress", None), found.status
        return JobStanding(
            state=state,
            phase=_phase(state),
            message=((status.message if status else None) or "").strip()[:LONGEST_MESSAGE],
            percent=progress.percent if progress else None,
            tokens=progress.input_tokens if progress else None,
            cost=_money(getattr(found, "estimated_cost", None)),
        )

    def metric_rows(self, kind: JobKind, job_id: str) -> list[dict[str, Any]] | None:
        with failures("the metrics of the job", self.place):
            if kind is JobKind.RFT:
                return _rows_said(self._metrics_said.get(job_id, ""))
            if kind is JobKind.DPO:
                answer = self._unless_missing(lambda: self._client.dpo_jobs.get_metrics_file_endpoint(job_id))
                signed = answer.signed_url if answer else None
            else:
                signed = self._metrics_at.get(job_id)  # of the last look: each look signs a new one
            if not signed:
                return None
            with self._bare.stream("GET", self._trusted(signed, "where its metrics are")) as response:
                if response.status_code == 404:
                    return None
                if response.status_code >= 400:
                    raise BackendError(
                        f"The metrics of the job cannot be read (status {response.status_code}).",
                        permanent=False,
                        kind=ErrorKind.SERVER,
                    )
                return _rows(response)

    def cancel(self, kind: JobKind, job_id: str) -> None:
        with failures("to cancel the job", self.place):
            try:
                self._unless_missing(lambda: self._resource(kind).cancel(job_id, body={}))
            except REFUSALS:
                if not self._is_in(kind, job_id, lambda state: state == "CANCELLING" or _phase(state).is_over):
                    raise

    def resume(self, kind: JobKind, job_id: str) -> None:
        with failures("to go on with the job", self.place):
            try:
                self._resource(kind).resume(job_id, body={})
            except REFUSALS:
                ended = (JobPhase.FAILED, JobPhase.CANCELLED)
                if not self._is_in(kind, job_id, lambda state: _phase(state) not in ended):
                    raise

    def checkpoints(self, kind: JobKind, job_id: str) -> list[JobCheckpoint]:
        with failures("the checkpoints of the job", self.place):
            found = [_checkpoint(row) for row in self._checkpoint_rows(self._job_name(kind, job_id))]
        return sorted(found, key=lambda checkpoint: checkpoint.created)

    def promote(self, checkpoint: str, output_model: str, base_model: str) -> None:
        body = {"output_model": output_model, "base_model": base_model, "async_promotion": True}
        with failures("to make a model of a checkpoint", self.place):
            try:
                self._client.post(f"/v1/{checkpoint}:promote", cast_to=object, body=body)
            except fireworks.ConflictError:  # it was heard before, and its answer lost: the name is nobody else's
                return

    def has_model(self, model_id: str) -> bool:
        with failures("the model that was trained", self.place):
            return self._unless_missing(lambda: self._client.models.get(model_id)) is not None

    def delete(self, resource: Resource) -> None:
        with failures(f"to delete the {resource.kind} {resource.name}", self.place):
            if resource.kind == "dataset":
                self._unless_missing(lambda: self._client.datasets.delete(resource.name))
                return
            if resource.kind == "model":
                self._delete_model(resource.name)
                return
            if resource.kind == "deployment":
                remove_deployment(self._client, resource.name, self.place)
                return
            if resource.kind == TRAINER:
                remove_trainer(self._client, resource.name, self.place)
                return
            kind = JobKind(resource.kind.removesuffix("_job"))
            standing = self.look(kind, resource.name)
            if standing is not None and not standing.phase.is_over:
                self.cancel(kind, resource.name)

    # what they share

    def _is_in(self, kind: JobKind, job_id: str, accepts: Callable[[str], bool]) -> bool:
        """Whether a refusal only means that the wish was heard before, and its answer lost."""
        found = self._unless_missing(lambda: self._get(kind, job_id))
        return found is not None and accepts(_state(found))

    def _resource(self, kind: JobKind) -> Any:
        resources = {
            JobKind.SFT: self._client.supervised_fine_tuning_jobs,
            JobKind.DPO: self._client.dpo_jobs,
            JobKind.RFT: self._client.reinforcement_fine_tuning_jobs,
        }
        return resources[kind]

    def _get(self, kind: JobKind, job_id: str) -> Any:
        return self._resource(kind).get(job_id)

    def _evaluator_name(self, name: str) -> str:
        return name if "/" in name else f"accounts/{self.account}/evaluators/{name}"

    def _dataset_name(self, dataset_id: str) -> str:
        return f"accounts/{self.account}/datasets/{dataset_id}"

    def _job_name(self, kind: JobKind, job_id: str) -> str:
        return f"accounts/{self.account}/{COLLECTIONS[kind]}/{job_id}"

    def _trusted(self, url: str | None, what: str) -> str:
        """An address that the service signed. Raises BackendError for one that a service has no reason to give."""
        given, own = urlsplit(url or ""), urlsplit(self._url)
        if given.scheme == "https" and given.hostname or (given.scheme, given.netloc) == (own.scheme, own.netloc):
            return url or ""
        raise BackendError(
            f"{self.place} does not say {what}: it gave no https address.", permanent=True, kind=ErrorKind.BAD_ANSWER
        )

    def _upload_timeout(self, num_bytes: int) -> float:
        """A megabyte a second is not too much to hope for."""
        return self._timeout + num_bytes / 1e6


def _tunable(kind: JobKind, rank: int) -> tuple[str, str]:
    """The live service's word for what a model can be tuned by, and ours. The SDK does not know it."""
    if kind is JobKind.RFT:
        return "rlLoraTunable", "by rewards"
    return ("supervisedLoraTunable", "with adapters") if rank else ("supervisedFullParameterTunable", "with all of its weights")


def _state(job: Any) -> str:
    return str(job.state or "UNSPECIFIED").removeprefix("JOB_STATE_")


def _phase(state: str) -> JobPhase:
    return PHASES.get(state, JobPhase.UNKNOWN)


def _rows(response: httpx.Response) -> list[dict[str, Any]]:
    """Raises BackendError for more than anybody measures."""
    found, text = [], bytearray()
    for part in response.iter_bytes():
        text += part
        if len(text) > MOST_METRIC_BYTES:
            raise BackendError(f"The metrics of the job are more than {MOST_METRIC_BYTES // 1_000_000} MB.", permanent=True)
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _rows_said(text: str) -> list[dict[str, Any]] | None:
    """A list of objects, one object, or an object on each line; None for anything else. Its form is nowhere written down."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
    rows = found if isinstance(found, list) else [found]
    return [row for row in rows if isinstance(row, dict)] or None


def _checkpoint(row: Mapping[str, Any]) -> JobCheckpoint:
    name = str(row["name"])
    step = re.search(r"step[-_]?(\d{1,9})", name.rpartition("/")[2])
    return JobCheckpoint(name, int(step[1]) if step else None, str(row.get("createTime") or ""), row.get("promotable") is True)


def _money(cost: Any) -> str:
    """As `12.50 USD`; empty while nothing is said."""
    if cost is None or (cost.units is None and cost.nanos is None):
        return ""
    return f"{int(cost.units or 0) + (cost.nanos or 0) / 1e9:,.2f} {cost.currency_code or ''}".strip()
