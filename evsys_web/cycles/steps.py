"""What a cycle does, step by step, in a sentence each: what is going on and why, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evsys_web.cycles.models import Cycle, CycleRound, Stage, Status
from evsys_web.evals.models import EvalRun
from evsys_web.evals.templatetags.eval_numbers import interval, percent
from evsys_web.runs.headlines import with_headlines
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.templatetags.run_numbers import short_number

COMING = "coming"


class Step(NamedTuple):
    """status: a status word, or `coming`. why: what it is for. came_of: what it brought, or how far it is; "" while unknown.
    progress: share done, None unless it is under way."""

    title: str
    why: str
    status: str
    url: str = ""
    came_of: str = ""
    progress: float | None = None


def steps_of(cycle: Cycle, rounds: Sequence[CycleRound]) -> list[Step]:
    """The baseline and the newest round; before there is one, what it will be."""
    newest = rounds[-1] if rounds else CycleRound(cycle=cycle, number=1)
    k, k_judge = (_attempts(cycle, side) for side in ("learn", "judge"))
    num_learn, num_judge = (
        _tasks(benchmark, cycle, side) for benchmark, side in ((cycle.learn, "learn"), (cycle.judge, "judge"))
    )
    name = "The model as it is" if newest.number == 1 else f"The model of round {newest.number - 1}"
    curation = cycle.config.get("curation", {})
    return [
        _eval_step(
            "Baseline",
            f"The model as it is tries {num_judge} held-out tasks {k_judge}: what everything later is compared with.",
            cycle.baseline,
        ),
        _eval_step(
            f"Attempts, round {newest.number}",
            f"{name} tries {num_learn} other tasks {k}, by chance a little differently each time. Its own right attempts will be "
            "what it learns from.",
            newest.eval_run,
        ),
        _curation_step(cycle, newest, f"{curation.get('filter', '')}", str(curation.get("select", ""))),
        _training_step(newest.training_run),
        _eval_step(
            "Held-out eval",
            f"The trained model tries the same held-out tasks {k_judge}. It never learned from them, so a gain is no memory.",
            newest.judged,
        ),
    ]


def _eval_step(title: str, why: str, run: EvalRun | None) -> Step:
    if run is None:
        return Step(title, why, COMING)
    avg, made = run.summary.get("avg"), run.num_done + run.num_errors
    came_of = f"{percent(avg['value'])} of attempts are right (95 % interval {interval(avg)})." if avg else ""
    if not run.has_ended:
        so_far = f", {percent(avg['value'])} right so far" if avg else ""
        came_of = f"{made:,} of {run.num_attempts:,} attempts{so_far}." if run.num_attempts else "Getting ready."
        if run.config.get("serving") and not made:
            came_of = "Its deployment comes up first, which may take minutes."
    return Step(title, why, str(run.status), run.get_absolute_url(), came_of, None if run.has_ended else run.progress or 0.0)


def _curation_step(cycle: Cycle, round_: CycleRound, text: str, select: str) -> Step:
    why = f"Of tasks that fit “{text}”, the attempts selected as “{select}” become training rows."
    if text.replace(" ", "") == "0<avg<1" and select == "correct":
        why = "Tasks it always or never solves teach nothing. Of those in between (0 < avg < 1) the right attempts become rows."
    found = round_.curation
    if found is None:
        is_here = cycle.stage == Stage.CURATE and cycle.round_number == round_.number
        status = (str(cycle.status) if cycle.has_ended else Status.RUNNING.value) if is_here else COMING
        return Step("Curation", why, status)
    num_rows = found.counts.get("num_rows", 0)
    kept, total = found.counts.get("num_kept"), found.counts.get("num_tasks")
    of_tasks = f" from {kept:,} of {total:,} tasks" if isinstance(kept, int) and isinstance(total, int) else ""
    return Step("Curation", why, Status.COMPLETED.value, found.get_absolute_url(), f"{num_rows:,} rows{of_tasks}.")


def _training_step(run: TrainingRun | None) -> Step:
    why = "The model learns to answer as in these rows, by small corrections of its weights step after step."
    if run is None:
        return Step("Training", why, COMING)
    _, headline, value = with_headlines([run])[0]
    of = f" of {run.num_steps:,}" if run.num_steps else ""
    came_of = f"Step {run.step:,}{of}" + (f", {headline.in_words} {short_number(value)}." if value is not None else ".")
    return Step("Training", why, str(run.status), run.get_absolute_url(), came_of, None if run.has_ended else run.progress or 0.0)


def _attempts(cycle: Cycle, side: str) -> str:
    k = cycle.config.get("attempts", 1)
    k = cycle.config.get("judge_attempts") or k if side == "judge" else k
    return "once" if k == 1 else f"{k} times each"


def _tasks(benchmark: object, cycle: Cycle, side: str) -> str:
    most = cycle.config.get(side, {}).get("max_tasks")
    number = getattr(benchmark, "num_tasks", 0)
    number = min(number, most) if most and number else number or most
    return f"{number:,}" if number else "the"
