"""Training shapes and dedicated trainers of the Fireworks on loopback, and the models made of what they saved."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tests.fireworks_wire import ACCOUNT, Request, missing

SHAPE = "accounts/fireworks/trainingShapes/qwen3-8b-256k-h200-lora"
WHOLE_SHAPE = "accounts/fireworks/trainingShapes/qwen3-8b-256k-h200"


def shape(mode: str = "LORA_TRAINER", *, context: int = 262_144, accelerator: str = "NVIDIA_H200_141GB") -> dict[str, Any]:
    return {
        "trainerMode": mode,
        "maxSupportedContextLength": context,
        "acceleratorType": accelerator,
        "acceleratorCount": 4,
        "nodeCount": 2,
        "deploymentShapeVersion": "accounts/fireworks/deploymentShapes/qwen3-8b-fast/versions/1",
    }


@dataclass
class Trainer:
    """saved: snapshots for samplers, oldest first."""

    body: dict[str, Any]
    walk: list[str]
    looks: int = 0
    saved: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return self.walk[min(self.looks, len(self.walk) - 1)]

    def end(self, state: str) -> None:
        self.walk, self.looks = [state], 0


@dataclass
class Trainers:
    """walk: states of every trainer made from now on, one per look. num_deaf: so many times a running one is not healthy yet.
    num_unlisted: so many looks do not show what was saved last. leaves: what a deleted one passes through."""

    walk: list[str] = field(default_factory=lambda: ["CREATING", "PENDING", "RUNNING"])
    message: str = ""
    shapes: dict[str, dict[str, Any]] = field(default_factory=lambda: {SHAPE: shape(), WHOLE_SHAPE: shape("POLICY_TRAINER")})
    num_deaf: int = 1
    num_unlisted: int = 1
    num_uploading: int = 2
    leaves: list[str] = field(default_factory=lambda: ["DELETING", "ARCHIVED"])
    trainers: dict[str, Trainer] = field(default_factory=dict)

    @property
    def up(self) -> list[str]:
        """Those that cost, or will once there is capacity."""
        return [name for name, each in self.trainers.items() if each.state in ("CREATING", "PENDING", "RUNNING")]

    def answer(
        self, request: Request, collection: str, name: str, verb: str, models: dict[str, dict[str, Any]]
    ) -> tuple[int, Any]:
        if collection == "trainingShapes":
            return self._versions(request, name)
        if collection == "checkpoints":
            return self._promote(request, name, models)
        if request.method == "POST" and not name:
            return self._create(request, models)
        name, _, below = name.partition("/")
        found = self.trainers.get(name)
        if found is None:
            return missing(name)
        if request.method == "DELETE":
            found.walk, found.looks = list(self.leaves), 0
            return 200, {}
        if below == "checkpoints":
            return 200, {"checkpoints": self._rows(name, found)}
        found.looks += 1
        return 200, self._shown(name, found)

    def is_healthy(self, name: str) -> bool:
        if name not in self.trainers or self.trainers[name].state != "RUNNING":
            return False
        self.num_deaf -= 1
        return self.num_deaf < 0

    def _versions(self, request: Request, name: str) -> tuple[int, Any]:
        name, _, below = name.partition("/")
        found = self.shapes.get(full := f"accounts/fireworks/trainingShapes/{name}")
        if found is None:
            return missing(full)
        assert below == "versions" and request.query["filter"] == "latest_validated=true"
        versions = [{"name": f"{full}/versions/7", "snapshot": found}] if found else []
        return 200, {"trainingShapeVersions": versions}

    def _create(self, request: Request, models: dict[str, dict[str, Any]]) -> tuple[int, Any]:
        body, name, chosen = request.json, request.query.get("rlorTrainerJobId", ""), request.query.get("trainingShape")
        if request.query.get("skipValidations") == "true":
            return 400, {"code": 3, "message": "Only superuser can skip validations"}
        if not re.fullmatch(r"[a-z0-9-]{1,63}", name):
            return 400, {"code": 3, "message": "an id of our own is required"}
        if not re.fullmatch(r"[0-9]{1,5}s", body.get("inactivityTimeout", "")) or int(body["inactivityTimeout"][:-1]) > 10_800:
            return 400, {"code": 3, "message": "inactivity_timeout is at most 3 hours"}
        if body["trainingConfig"]["baseModel"] not in models:
            return missing(body["trainingConfig"]["baseModel"])
        if chosen is not None and self.shapes.get(chosen, {}).get("trainerMode") != "LORA_TRAINER":
            return 400, {"code": 3, "message": f"{chosen} does not train adapters"}
        if name in self.trainers:
            return 409, {"code": 6, "message": "already exists"}
        self.trainers[name] = made = Trainer(body, list(self.walk))
        if chosen is None:  # it chooses, and says for how long a context
            body["trainingConfig"].setdefault("maxContextLength", 32_768)
        return 200, self._shown(name, made)

    def _shown(self, name: str, found: Trainer) -> dict[str, Any]:
        return {
            "name": f"accounts/{ACCOUNT}/rlorTrainerJobs/{name}",
            "state": f"JOB_STATE_{found.state}",
            "status": {"code": "OK", "message": self.message},
            "acceleratorSeconds": {"NVIDIA_H200_141GB": "3600"} if found.state == "RUNNING" else {},
            **found.body,
        }

    def _rows(self, name: str, found: Trainer) -> list[dict[str, Any]]:
        self.num_unlisted -= 1
        saved = found.saved if self.num_unlisted < 0 else found.saved[:-1]
        rows = [{"name": f"step-0-{name[-4:]}", "checkpointType": "CHECKPOINT_TYPE_TRAINING_LORA", "promotable": False}]
        rows += [{"name": each, "checkpointType": "CHECKPOINT_TYPE_INFERENCE_LORA", "promotable": True} for each in saved]
        return [{**row, "name": f"accounts/{ACCOUNT}/rlorTrainerJobs/{name}/checkpoints/{row['name']}"} for row in rows]

    def _promote(self, request: Request, name: str, models: dict[str, dict[str, Any]]) -> tuple[int, Any]:
        body = request.json
        if set(body) != {"output_model", "trainer_job_id", "base_model", "async_promotion"}:
            return 400, {"code": 3, "message": f"unknown fields in {sorted(body)}"}
        found = self.trainers.get(body["trainer_job_id"].rpartition("/")[2])
        if found is None or name not in found.saved:
            return 400, {"code": 9, "message": f"checkpoint {name} is not promotable"}
        if body["output_model"] in models:
            return 409, {"code": 6, "message": "already exists"}
        models[body["output_model"]] = {"kind": "HF_PEFT_ADDON", "uploading": self.num_uploading}
        return 200, {"operation": {"name": f"accounts/{ACCOUNT}/operations/2", "done": False}}
