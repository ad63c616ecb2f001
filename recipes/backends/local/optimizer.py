"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with every setting taken anew at each step, and a state that can be saved.

PyTorch's fused implementation does the arithmetic. What is added here: clipping by the global norm, a defined answer when there
is no gradient, and a refusal to write NaN into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recipes.errors import CheckpointError
from recipes.types import AdamParams, Metrics

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimizer:
    """Steps the named parameters. `num_steps` counts the updates that were applied."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self._adamw = torch.optim.AdamW(list(self.parameters.values()), lr=0.0, fused=True)

    def step(self, adam: AdamParams) -> Metrics:
        """Apply the accumulated gradient and clear it. A parameter that received none counts as gradient 0.

        Returns `optim/grad_norm`, measured before clipping. When that is not finite the weights and moments are left alone and
        `optim/skipped_nonfinite` is 1.
        """
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        metrics = {"optim/grad_norm": float(norm)}
        if torch.isfinite(norm):
            if adam.grad_clip_norm > 0:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), adam.grad_clip_norm, norm)
            for group in self._adamw.param_groups:
                group.update(lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.eps, weight_decay=adam.weight_decay)
            self._adamw.step()
        else:
            metrics["optim/skipped_nonfinite"] = 1.0
        self.clear_gradient()
        return metrics

    def clear_gradient(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    @property
    def num_steps(self) -> int:
        return max((int(state["step"]) for state in self._adamw.state.values()), default=0)

    def tensors(self) -> dict[str, Tensor]:
        """Moments and step counts by `<moment>.<parameter name>`; empty before the first step."""
        return {
            f"{moment}.{name}": self._adamw.state[parameter][moment]
            for name, parameter in self.parameters.items()
            if parameter in self._adamw.state
            for moment in _MOMENTS
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave. Raises CheckpointError when moments are missing or belong to other shapes."""
        states: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items() if tensors else ():
            moments = {moment: tensors[key] for moment in _MOMENTS if (key := f"{moment}.{name}") in tensors}
            if len(moments) < len(_MOMENTS) or moments["exp_avg"].shape != parameter.shape:
                raise CheckpointError(f"The checkpoint holds no optimizer state that fits {name}.")
            states[parameter] = {
                moment: tensor.to(parameter.device, torch.float32 if moment == "step" else parameter.dtype, copy=True)
                for moment, tensor in moments.items()
            }
        self.clear_gradient()
        self._adamw.state.clear()
        self._adamw.state.update(states)
