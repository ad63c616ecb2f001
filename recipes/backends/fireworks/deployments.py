"""Deployments at Fireworks: what could serve a model, one made for it, and its removal.

A shape is always sent, since deployments without one are those that fail. What has answered lately is deleted with ignoreChecks,
as the service else refuses for an hour; where it still refuses, the deployment is scaled to no replica, which ends the bill.
"""

from __future__ import annotations

from typing import Any

import fireworks

from recipes.backends.fireworks.account import FireworksAccount
from recipes.backends.fireworks.failures import failure_of, failures
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.eval_config import Endpoint, Serving
from recipes.resources import Resource
from recipes.serving import DEPLOYMENT, DeploymentPhase, DeploymentStanding, ServingOffer

GONE = ("DELETING", "DELETED")
PHASES = {"READY": DeploymentPhase.READY, "FAILED": DeploymentPhase.FAILED}
LONGEST_MESSAGE = 1000


class FireworksDeployments(FireworksAccount):
    """`recipes.serving.Deployments` on Fireworks."""

    def offer(self, model: str, shape: str | None) -> ServingOffer:
        if shape is None:
            with failures("which shapes serve the model", self.place):
                found = self._client.deployment_shape_versions.match_for_model(model).deployment_shape_versions or []
            names = [name for version in found if (name := (version.snapshot.name if version.snapshot else None) or version.name)]
            if not names:
                raise ConfigError(f"{self.place} has no shape that serves {model} for this account.", path=("serving", "shape"))
            shape = names[0]
        with failures("what it would serve on", self.place):
            would_be = self._client.deployments.create(
                base_model=model, deployment_shape=shape, min_replica_count=0, max_replica_count=1, validate_only=True
            )
        return ServingOffer(shape, would_be.accelerator_type or "", would_be.accelerator_count or 1)

    def create(self, name: str, model: str, offer: ServingOffer, serving: Serving) -> None:
        with failures("the new deployment", self.place):
            try:
                self._client.deployments.create(
                    deployment_id=name,
                    base_model=model,
                    deployment_shape=offer.shape,
                    display_name=name,
                    min_replica_count=0,
                    max_replica_count=serving.max_replicas,
                    autoscaling_policy={"scale_to_zero_window": f"{serving.idle_minutes * 60}s"},
                )
            except fireworks.ConflictError:
                there = self._client.deployments.get(name)
                if there.base_model != model:
                    raise BackendError(
                        f"A deployment {name} of another model is at {self.place} already.",
                        permanent=True,
                        kind=ErrorKind.REQUEST,
                    ) from None

    def look(self, name: str) -> DeploymentStanding | None:
        with failures("the state of the deployment", self.place):
            found = self._unless_missing(lambda: self._client.deployments.get(name))
        if found is None or found.state in GONE:
            return None
        state = found.state or "STATE_UNSPECIFIED"
        message = ((found.status.message if found.status else None) or "").strip()[:LONGEST_MESSAGE]
        return DeploymentStanding(state, PHASES.get(state, DeploymentPhase.COMING), message)

    def endpoint(self, name: str) -> Endpoint:
        """Its address is another than that of the account: the SDK drops the prefix once it is given an address."""
        model = f"accounts/{self.account}/deployments/{name}"
        return Endpoint(base_url=f"{self._url}/inference/v1", model=model, timeout_seconds=max(120.0, self._timeout))

    def delete(self, resource: Resource) -> None:
        if resource.kind != DEPLOYMENT:
            raise BackendError(f"A {resource.kind} is no deployment.", permanent=True, kind=ErrorKind.REQUEST)
        with failures(f"to delete the deployment {resource.name}", self.place):
            remove_deployment(self._client, resource.name, self.place)


def remove_deployment(client: Any, name: str, place: str) -> None:
    """Raises BackendError for one that was only scaled down, and what the SDK raises where not even that could be done."""
    try:
        client.deployments.delete(name, ignore_checks=True)
    except fireworks.NotFoundError:
        return
    except (fireworks.BadRequestError, fireworks.ConflictError, fireworks.PermissionDeniedError) as refusal:
        if (found := client.deployments.get(name)).state in GONE:
            return
        if found.desired_replica_count != 0 or found.replica_count:
            client.deployments.scale(name, replica_count=0)
        why = failure_of(refusal, f"to delete the deployment {name}", place)
        raise BackendError(
            f"{why} It was scaled to no replica instead, so that it costs nothing.", permanent=True, kind=why.kind
        ) from refusal
