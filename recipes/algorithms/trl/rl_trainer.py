"""TRL's GRPOTrainer on prompts that are tokens already, rewarded by this program's verifiers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from datasets import Dataset  # type: ignore[import-untyped]
from datasets import logging as datasets_logging
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from recipes.algorithms.trl.model import OpenModel
from recipes.algorithms.trl.rl import LocalRLConfig, Prompted
from recipes.algorithms.trl.rl_drift import KL, RATIO_MAX, RATIO_MEAN, SAMPLED, Recorder, drift_sums
from recipes.algorithms.trl.training import OwnTrainer, on_one_gpu
from recipes.backends.local.sampler import turn_end_ids
from recipes.chat import split_reasoning
from recipes.errors import RecipeError
from recipes.trajectories import group_advantages
from recipes.types import StopReason, Trajectory, Turn
from recipes.verifiers import Verdict

ORDER_SEED = 5
"""Keeps the order of tasks apart from what else the run's seed decides."""


class _Order(RepeatSampler):
    """TRL's repetitions in an order that follows from seed and epoch, so that a run that goes on has the same as one that did
    not stop. TRL's own is drawn on from epoch to epoch, and begins anew where a run goes on."""

    run_seed: int
    epoch: int

    def __iter__(self) -> Iterator[int]:
        seed = np.random.SeedSequence([self.run_seed, ORDER_SEED, self.epoch]).generate_state(1)[0]
        self.generator.manual_seed(int(seed))
        self.epoch += 1
        return iter(super().__iter__())  # type: ignore[no-untyped-call]


class _Trainer(OwnTrainer, GRPOTrainer):
    """With the run's step sizes and prompts. A prompt is the index of one in `prompted`, as text."""

    prompted: Sequence[Prompted]
    sampled: Any
    """The model that `generate` calls, within the adapters'."""
    args: Any
    accelerator: Any
    model: Any
    _metrics: Any
    _trained: Tensor

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompted[int(prompt)].token_ids) for prompt in prompts], None, {}

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> tuple[list[list[int]], list[list[float]] | None]:
        with Recorder(self.sampled, self.args.temperature) as seen:
            completion_ids, _ = super()._generate_single_turn(*arguments, **named)  # type: ignore[no-untyped-call]
        return completion_ids, seen.logprobs(completion_ids)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)
        self._trained = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        if self.model.training:
            self._measure_drift(inputs)
        return loss

    def _measure_drift(self, inputs: dict[str, Any]) -> None:
        """Of this pass, over all processes; a step's largest ratio is that of all its passes. Every process comes here, also one
        whose sampler was not heard: the others would wait for it."""
        sampled = inputs.get(SAMPLED)
        taught = inputs["completion_mask"].bool() & (inputs["advantages"] != 0)[:, None]
        if sampled is None:
            sampled, taught = self._trained, taught.new_zeros(taught.shape)
        sums, largest = drift_sums(self._trained, sampled, taught)
        divergence, ratio, count = self.accelerator.reduce(sums, reduction="sum").tolist()
        highest = float(self.accelerator.gather(largest).max())
        if not count:
            return
        told = self._metrics["train"]
        told[KL].append(divergence / count)
        told[RATIO_MEAN].append(ratio / count)
        told[RATIO_MAX] = [max(highest, *told[RATIO_MAX])] if told[RATIO_MAX] else [highest]

    def _get_train_sampler(self, dataset: Any = None) -> _Order:
        args: Any = self.args
        rows: Any = self.train_dataset if dataset is None else dataset
        sampler = _Order(
            data_source=rows,
            mini_repeat_count=args.num_generations,
            batch_size=args.generation_batch_size // args.num_generations,
            repeat_count=args.num_iterations * args.steps_per_generation,
            shuffle=True,
            seed=args.seed,
        )
        sampler.run_seed, sampler.epoch = args.seed, self.start_epoch
        return sampler


def rl_trainer(
    opened: OpenModel,
    arguments: dict[str, Any],
    settings: LocalRLConfig,
    prompted: Sequence[Prompted],
    held_out: Sequence[Prompted],
    *,
    tell: Callable[[int, Sequence[Trajectory], Sequence[str]], None],
) -> Any:
    """Ready to train on `prompted`, to be measured on `held_out` where there are any. `tell`: hears of the rollouts of each step,
    and of the errors of those that could not be judged."""
    datasets_logging.disable_progress_bar()
    ends = sorted(turn_end_ids(opened.model, opened.tokenizer))
    opened.model.generation_config.eos_token_id = ends
    everything = [*prompted, *held_out]
    rewards = _Rewards(everything, settings, opened.tokenizer, frozenset(ends), tell)
    per_task = settings.validation_samples
    at_once = arguments["per_device_eval_batch_size"]
    trainer = _Trainer(
        model=opened.model,
        reward_funcs=[rewards.verifier],
        args=on_one_gpu(
            GRPOConfig(
                **arguments | {"per_device_eval_batch_size": per_task * max(1, at_once // per_task)},
                num_generations=settings.num_samples,
                num_generations_eval=per_task,
                max_completion_length=settings.max_tokens,
                temperature=settings.temperature,
                top_p=1.0,
                top_k=0,
                beta=settings.kl_beta,
                epsilon=settings.clip_epsilon,
                loss_type=str(settings.grpo_loss),
                scale_rewards="group" if settings.divide_by_std else "none",
            )
        ),
        train_dataset=_dataset(0, len(prompted)),
        eval_dataset=_dataset(len(prompted), len(everything)) if held_out else None,
        processing_class=opened.tokenizer,
    )
    trainer.prompted = everything
    trainer.sampled = opened.model.get_base_model() if opened.has_adapters else opened.model
    rewards.is_training = lambda: bool(opened.model.training)
    return trainer


def _dataset(first: int, stop: int) -> Any:
    return Dataset.from_dict({"prompt": [str(index) for index in range(first, stop)]})


class _Rewards:
    """TRL's reward function: the verdicts of the tasks' verifiers, None for a reply that could not be judged."""

    def __init__(
        self,
        prompted: Sequence[Prompted],
        settings: LocalRLConfig,
        tokenizer: Any,
        ends: frozenset[int],
        tell: Callable[[int, Sequence[Trajectory], Sequence[str]], None],
    ) -> None:
        self.is_training: Callable[[], bool] = lambda: True
        self._prompted, self._settings, self._tokenizer, self._ends, self._tell = prompted, settings, tokenizer, ends, tell

    def verifier(self, *, prompts: list[str], completion_ids: list[list[int]], **named: Any) -> list[float | None]:
        asked = [self._prompted[int(prompt)] for prompt in prompts]
        replies = [self._reply(each, ids) for each, ids in zip(asked, completion_ids, strict=True)]
        # TRL calls from within this thread's event loop, which waits for it: the verifiers get one of their own.
        with ThreadPoolExecutor(max_workers=1) as thread:
            verdicts = thread.submit(lambda: asyncio.run(_judged(asked, replies))).result()
        errors = [str(verdict) for verdict in verdicts if isinstance(verdict, Exception)]
        judged = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
        log_metric = named["log_metric"]
        log_metric("rollout/errors", float(len(errors)))
        if judged:
            log_metric("reward/correct", float(np.mean([bool(verdict.is_correct) for verdict in judged])))
        if self.is_training():
            step = named["trainer_state"].global_step + 1
            self._tell(step, self._trajectories(asked, completion_ids, replies, verdicts), errors)
        return [verdict.reward if isinstance(verdict, Verdict) else None for verdict in verdicts]

    def _reply(self, asked: Prompted, ids: list[int]) -> dict[str, Any]:
        """As the chats and evals read it: reasoning apart from what is judged."""
        opened = self._tokenizer.decode(asked.token_ids[-8:], skip_special_tokens=False).rstrip().endswith("<think>")
        content, reasoning = split_reasoning(self._tokenizer.decode(ids, skip_special_tokens=True), thinks=opened)
        return {"role": "assistant", "content": content} | ({"reasoning": reasoning} if reasoning else {})

    def _trajectories(
        self,
        asked: Sequence[Prompted],
        completion_ids: Sequence[list[int]],
        replies: Sequence[dict[str, Any]],
        verdicts: Sequence[Verdict | Exception],
    ) -> list[Trajectory]:
        """Those that were judged, in groups of one task, with their advantages among themselves."""
        size, found = self._settings.num_samples, []
        for group in range(len(asked) // size):
            members = [index for index in range(group * size, (group + 1) * size) if isinstance(verdicts[index], Verdict)]
            rewards = [verdicts[index].reward for index in members]  # type: ignore[union-attr]
            advantages = group_advantages(rewards, by_std=self._settings.divide_by_std)
            for index, reward, advantage in zip(members, rewards, advantages, strict=True):
                ids, verdict = completion_ids[index], verdicts[index]
                found.append(
                    Trajectory(
                        asked[index].task.task_id,
                        [Turn([], list(ids), [], replies[index]["content"])],
                        reward,
                        dict(verdict.signals),  # type: ignore[union-attr]
                        [*asked[index].messages, replies[index]],
                        group=group,
                        attempt=index % size,
                        advantage=float(advantage),
                        is_correct=verdict.is_correct,  # type: ignore[union-attr]
                        stop_reason=StopReason.STOP if ids and ids[-1] in self._ends else StopReason.LENGTH,
                    )
                )
        return found


async def _judged(asked: Sequence[Prompted], replies: Sequence[dict[str, Any]]) -> list[Verdict | Exception]:
    verdicts = [
        each.judge.verdict(reply["content"], each.task, [*each.messages, reply])
        for each, reply in zip(asked, replies, strict=True)
    ]
    found = await asyncio.gather(*verdicts, return_exceptions=True)
    for verdict in found:
        if isinstance(verdict, BaseException) and not isinstance(verdict, Exception):
            raise verdict
    return [_told(verdict) if isinstance(verdict, Exception) else verdict for verdict in found]  # type: ignore[misc]


def _told(error: Exception) -> Exception:
    """Whatever a verifier raises is an error of that attempt."""
    return error if isinstance(error, RecipeError) else RecipeError(f"{type(error).__name__}: {error}")
