"""What a cycle will take at most: its evals, round by round, and the training of what their attempts may become."""

from __future__ import annotations

from typing import NamedTuple

from evsys_web.accounts.models import User
from evsys_web.evals.estimates import estimate_for
from evsys_web.evals.models import Benchmark
from recipes.config import DataConfig, RunConfig
from recipes.cycle_config import CycleConfig, Side
from recipes.effects import effectless
from recipes.estimate import Range, TokenSample, bills, estimate, price_of_time
from recipes.eval_config import VerifierChoice
from recipes.eval_estimate import EvalEstimate
from recipes.serving_bounds import ServingBound, bound_of


class CycleEstimate(NamedTuple):
    """None is "not known". num_attempts, sampled_tokens, seconds: of all evals, the baseline too. sampling, training: dollars
    that the host bills for them, and for the training of all rounds, from none to every attempt being kept. deployments: None
    where none are made."""

    num_rounds: int
    learn: EvalEstimate
    judge: EvalEstimate
    num_attempts: int
    sampled_tokens: Range
    seconds: Range | None
    sampling: Range | None
    training: Range | None
    deployments: ServingBound | None
    notes: list[str]


def estimate_cycle(config: CycleConfig, learn: Benchmark, judge: Benchmark, user: User) -> CycleEstimate:
    """Raises ConfigError when the settings are wrong, or the tasks of a benchmark were deleted."""
    of_learn, of_judge = _eval(config, "learn", learn, user), _eval(config, "judge", judge, user)
    rounds = config.rounds
    run = config.run_config(name="round", dataset="rows@1", checkpoint=config.model.checkpoint)
    training = _training(run, config, of_learn)
    notes = [*_told_of_both(of_learn.notes, of_judge.notes), *effectless(run)]
    if (is_billed := bills(run.backend.kind, run.backend_config())) and (in_all := config.hours_sentence()):
        notes += [price_of_time(run), in_all]
    elif training is None and is_billed:
        notes.append(f"What {run.backend.kind} bills for the training of a round comes on top, and is not known.")
    return CycleEstimate(
        rounds,
        of_learn,
        of_judge,
        rounds * of_learn.num_attempts + (rounds + 1) * of_judge.num_attempts,
        of_learn.sampled_tokens.times(rounds).plus(of_judge.sampled_tokens.times(rounds + 1)),
        _together(of_learn.seconds, of_judge.seconds, rounds),
        _together(of_learn.dollars, of_judge.dollars, rounds),
        training.times(rounds) if training else None,
        bound_of(config.serving, num_evals=config.num_evals) if config.serving is not None else None,
        list(dict.fromkeys(notes)),
    )


def _told_of_both(learn: list[str], judge: list[str]) -> list[str]:
    """Once where it holds of both sides, else with the side that it is said of."""
    sides = (("To learn from", learn, judge), ("Held out", judge, learn))
    return [
        *(note for note in learn if note in judge),
        *(f"{side}: {note}" for side, own, other in sides for note in own if note not in other),
    ]


def _eval(config: CycleConfig, side: Side, benchmark: Benchmark, user: User) -> EvalEstimate:
    version = benchmark.dataset_version
    assert version is not None  # forms offer no others
    tasks = {
        "data": DataConfig(dataset=version.reference, split=benchmark.split or None),
        "verifier": VerifierChoice.model_validate(benchmark.verifier),
    }
    evaluated = config.eval_config(side, name=side, checkpoint=config.model.checkpoint).model_copy(update=tasks)
    return estimate_for(evaluated, version, user, num_evals=config.num_evals)


def _training(run: RunConfig, config: CycleConfig, learn: EvalEstimate) -> Range | None:
    """Dollars of one round, from no row that the filter keeps to all attempts, each as long as it can be."""
    if learn.prompt_tokens is None:
        return None
    kept = min(config.curation.max_per_task or config.attempts, config.attempts)
    reply = learn.sampled_tokens.high / max(1, learn.num_attempts)
    prompt = learn.prompt_tokens.high / max(1, learn.num_attempts)
    dollars = estimate(run, num_rows=max(1, learn.num_tasks * kept), sample=TokenSample([prompt + reply], [reply])).dollars
    return Range(0.0, dollars.high) if dollars else None


def _together(learn: Range | None, judge: Range | None, rounds: int) -> Range | None:
    return None if learn is None or judge is None else learn.times(rounds).plus(judge.times(rounds + 1))
