"""The most that deployments can cost: so many evals, one deployment each, which is up for no longer than it may be."""

from __future__ import annotations

from typing import NamedTuple

from recipes.eval_config import Serving

AGAIN = "A resume, a retry or a worker that is shut down costs that of an eval again."
"""Each makes another deployment, which may be up for as long."""


class ServingBound(NamedTuple):
    """hours: of one deployment. dollars: of all; None where no price an hour is known that holds for all, and
    none was allowed."""

    num_evals: int
    hours: float
    replicas: int
    dollars: float | None

    def sentence(self) -> str:
        """For whoever pays, before anybody does."""
        replicas = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        each = f"a deployment of at most {replicas} for at most {self.hours:g} hours, billed per GPU-second"
        all_of_them = (
            f"{each}, which is made for this eval" if self.num_evals == 1 else f"{self.num_evals:,} evals, each on {each}"
        )
        if self.dollars is None:
            return f"What serving costs at most is not known: {all_of_them}. A limit in dollars per hour makes it known. {AGAIN}"
        return f"Serving costs at most ${self.dollars:,.2f}: {all_of_them}. {AGAIN}"


def bound_of(serving: Serving, *, num_evals: int, replica_dollars: float | None = None) -> ServingBound:
    """replica_dollars: what one replica costs an hour, where the service said on what it serves and the list has a price of that.
    It holds for an eval alone, or where a shape is named: the models that a cycle tunes are each served on what is matched then.
    What costs more an hour than `max_dollars_per_hour` is not made."""
    is_pinned = num_evals == 1 or serving.shape is not None
    offered = replica_dollars * serving.max_replicas if replica_dollars is not None and is_pinned else None
    known = [serving.max_dollars_per_hour, offered]
    rates = [rate for rate in known if rate is not None]
    dollars = num_evals * serving.longest_hours * min(rates) if rates else None
    return ServingBound(num_evals, serving.longest_hours, serving.max_replicas, dollars)
