"""The deployments of the Fireworks on loopback, and what answers from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fireworks_wire import ACCOUNT, Request, missing

SHAPE = "accounts/fireworks/deploymentShapes/qwen3-8b-fast"


@dataclass
class Deployment:
    body: dict[str, Any]
    walk: list[str]
    looks: int = 0
    replicas: int = 1
    num_asked: int = 0

    @property
    def state(self) -> str:
        return self.walk[min(self.looks, len(self.walk) - 1)]


@dataclass
class Serving:
    """walk: states of every deployment made from now on, one per look. num_deaf: so many chats find a ready one that does not
    answer yet. reply: what it says to a conversation. tuned_reply: the same of what jobs made, given the model's name; None: as
    any other. keeps_what_was_asked: deleting is refused even with ignoreChecks."""

    walk: list[str] = field(default_factory=lambda: ["CREATING", "CREATING", "READY"])
    message: str = ""
    accelerator: str = "NVIDIA_H100_80GB"
    shapes: list[str] = field(default_factory=lambda: [SHAPE])
    num_deaf: int = 2
    keeps_what_was_asked: bool = False
    reply: Callable[[list[dict[str, Any]]], str] = lambda messages: "I do not know."
    tuned_reply: Callable[[str, list[dict[str, Any]]], str] | None = None
    deployments: dict[str, Deployment] = field(default_factory=dict)

    @property
    def up(self) -> list[str]:
        """Those that cost."""
        return [name for name, each in self.deployments.items() if each.state != "DELETED" and each.replicas]

    def answer(self, request: Request, collection: str, name: str, verb: str, models: Mapping[str, Any]) -> tuple[int, Any]:
        if verb == "match":
            asked = request.json["createDeploymentRequest"]["deployment"]["baseModel"]
            versions = [{"name": f"{shape}/versions/1", "snapshot": {"name": shape, "baseModel": asked}} for shape in self.shapes]
            return (200, {"deploymentShapeVersions": versions}) if asked in models else missing(asked)
        if request.method == "POST" and not name:
            return self._create(request, models)
        found = self.deployments.get(name)
        if found is None:
            return missing(name)
        if request.method == "DELETE":
            return self._delete(request, found)
        if verb == "scale":
            found.replicas = int(request.json["replicaCount"])
            return 200, {}
        found.looks += 1
        return 200, self._shown(name, found)

    def _create(self, request: Request, models: Mapping[str, Any]) -> tuple[int, Any]:
        body, name = request.json, request.query.get("deploymentId", "")
        if body["baseModel"] not in models:
            return missing(body["baseModel"])
        if body.get("deploymentShape") not in self.shapes:
            return 400, {"code": 3, "message": "a deployment shape is required"}
        if request.query.get("validateOnly") == "true":
            return 200, {**body, "acceleratorType": self.accelerator, "acceleratorCount": 2}
        if not name:
            return 400, {"code": 3, "message": "an id of our own is required"}
        if name in self.deployments:
            return 409, {"code": 6, "message": "already exists"}
        self.deployments[name] = made = Deployment(body, list(self.walk))
        return 200, self._shown(name, made)

    def _delete(self, request: Request, found: Deployment) -> tuple[int, Any]:
        if self.keeps_what_was_asked or (found.num_asked and request.query.get("ignoreChecks") != "true"):
            return 400, {"code": 9, "message": "the deployment was in use within the last hour"}
        found.walk, found.looks = ["DELETED"], 0
        return 200, {}

    def _shown(self, name: str, found: Deployment) -> dict[str, Any]:
        return {
            "name": f"accounts/{ACCOUNT}/deployments/{name}",
            "state": found.state,
            "status": {"code": "OK", "message": self.message},
            "desiredReplicaCount": found.replicas,
            "replicaCount": found.replicas,
            **found.body,
        }

    def chat(self, request: Request) -> tuple[int, Any]:
        owner, _, name = str(request.json["model"]).partition("/deployments/")
        found = self.deployments.get(name)
        if request.path != "/inference/v1/chat/completions" or owner != f"accounts/{ACCOUNT}" or found is None:
            return 404, {"error": {"message": "Model not found, inaccessible, and/or not deployed"}}
        if found.state != "READY" or self.num_deaf > 0:
            self.num_deaf -= 1
            return (404 if self.num_deaf % 2 else 503), {"error": {"message": "not serving yet"}}
        found.num_asked += 1
        said = {"role": "assistant", "content": self._reply(found.body["baseModel"], request.json["messages"])}
        choice = {"index": 0, "finish_reason": "stop", "message": said}
        usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
        return 200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    def _reply(self, model: str, messages: list[dict[str, Any]]) -> str:
        if self.tuned_reply is not None and model.startswith(f"accounts/{ACCOUNT}/"):
            return self.tuned_reply(model, messages)
        return self.reply(messages)
