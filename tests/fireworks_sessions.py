"""Training sessions of the Fireworks on loopback: the checkpoints that each lists, and the models made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fireworks_wire import ACCOUNT, Request, missing


@dataclass
class Sessions:
    """num_unlisted: so many looks do not show a checkpoint that was saved. promotable: what each says of itself. num_uploading:
    looks at a new model until it is ready. failure: of the operation that makes one, told at its look. origins: of which snapshot
    each model was made."""

    num_unlisted: int = 2
    promotable: bool = True
    num_uploading: int = 2
    failure: str = ""
    saved: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    looks: int = 0
    deleted: list[str] = field(default_factory=list)

    def save(self, session: str, snapshot: str) -> None:
        self.saved.setdefault(session, []).append(snapshot)
        self.looks = 0

    def answer(self, request: Request, name: str, verb: str, models: dict[str, dict[str, Any]]) -> tuple[int, Any]:
        session, _, below = name.partition("/")
        if request.method == "DELETE":
            self.deleted.append(session)
            return 200, {}
        if session not in self.saved:
            return missing(session)
        if verb == "promote":
            return self._promote(request, session, below.removeprefix("checkpoints/"), models)
        self.looks += 1
        listed = self.saved[session] if self.looks > self.num_unlisted else self.saved[session][:-1]
        return 200, {"trainingSessionCheckpoints": [self._row(session, snapshot) for snapshot in listed]}

    def _row(self, session: str, snapshot: str) -> dict[str, Any]:
        name = f"accounts/{ACCOUNT}/trainingSessions/{session}/checkpoints/{snapshot}"
        return {"name": name, "promotable": self.promotable, "checkpointType": "INFERENCE_LORA"}

    def _promote(
        self, request: Request, session: str, snapshot: str, models: dict[str, dict[str, Any]]
    ) -> tuple[int, dict[str, Any]]:
        if snapshot not in self.saved[session] or not self.promotable:
            return 400, {"code": 9, "message": f"checkpoint {snapshot} is not promotable"}
        if set(request.json) != {"output_model", "base_model"}:
            return 400, {"code": 3, "message": f"unknown fields in {sorted(request.json)}"}
        model = request.json["output_model"]
        if model in models:
            return 409, {"code": 6, "message": "already exists"}
        if self.failure:
            return 200, {"operation": {"name": f"accounts/{ACCOUNT}/operations/1", "done": False}}
        self.origins[model] = snapshot
        models[model] = {"kind": "HF_PEFT_ADDON", "uploading": self.num_uploading}
        return 200, {"model": {"name": model, "state": "UPLOADING"}}


def shown(fields: dict[str, Any]) -> dict[str, Any]:
    """A model at one look: UPLOADING for as long as it is being made."""
    if "uploading" not in fields:
        return fields
    fields["uploading"] -= 1
    return {"kind": fields["kind"], "state": "UPLOADING" if fields["uploading"] >= 0 else "READY"}
