"""The guided first cycle: the bundled model on its bundled tasks. It is an ordinary cycle; only its settings come along."""

from __future__ import annotations

from pathlib import Path

import yaml

from evsys_web.accounts.models import Project, User
from evsys_web.cycles.actions import launch_cycle
from evsys_web.cycles.models import Cycle
from evsys_web.evals.starter import import_starter_benchmark, import_starter_learning_benchmark
from recipes import starter
from recipes.cycle_config import CycleConfig

QUICK_TASKS, QUICK_ATTEMPTS = 60, 4
SETTINGS = Path(starter.__file__).parent / "cycle.yaml"


def launch_first_cycle(*, user: User, project: Project, idempotency_key: str | None = None, quick: bool = False) -> Cycle:
    """Queue it, on benchmarks that are made at the first time. quick: fewer tasks and attempts. Raises as `launch_cycle`."""
    learn, judge = import_starter_learning_benchmark(project, user), import_starter_benchmark(project, user)
    most = {"max_tasks": QUICK_TASKS} if quick else {}
    sides = {"learn": {"benchmark": str(learn.pk), **most}, "judge": {"benchmark": str(judge.pk), **most}}
    values = yaml.safe_load(SETTINGS.read_text()) | sides | ({"attempts": QUICK_ATTEMPTS} if quick else {})
    config = CycleConfig.from_values(values)
    return launch_cycle(user=user, project=project, config=config, idempotency_key=idempotency_key)
