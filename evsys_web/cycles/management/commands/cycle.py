"""`manage.py cycle config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from evsys_web.accounts.models import Project, User
from evsys_web.cycles.actions import launch_cycle
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle, Status
from evsys_web.cycles.schemas import CycleDetail
from evsys_web.cycles.tasks import advance_cycle
from evsys_web.evals.models import EvalRun
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.commands import POLL_SECONDS, LaunchCommand, version_of
from evsys_web.runs.tasks import train_run
from recipes.cycle_config import CycleConfig, TasksChoice
from recipes.eval_config import VerifierChoice


class Command(LaunchCommand[Cycle]):
    help = "Launch a cycle from a YAML file. Each side's tasks are a benchmark or a dataset here, or a JSONL file (path)."
    noun = "Cycle"
    task = advance_cycle
    detail = CycleDetail

    def launch(self, text: str, *, user: User, project: Project, folder: Path) -> Cycle:
        config = CycleConfig.from_yaml(text)
        sides = {
            "learn": _with_dataset(config.learn, user, project, folder),
            "judge": _with_dataset(config.judge, user, project, folder),
        }
        return launch_cycle(user=user, project=project, config=config.model_copy(update=sides))

    def do_here(self, work: Cycle) -> None:
        """Part after part; what a worker took up first is waited for."""
        while True:
            self.task.apply(args=[work.pk])
            work.refresh_from_db()
            if work.has_ended:
                return
            part = work.part
            if part is None or part.status != Status.QUEUED:
                time.sleep(POLL_SECONDS)
                continue
            self.say(f"{work.where}: {part}")
            (run_eval if isinstance(part, EvalRun) else train_run).apply(args=[part.pk])

    def progress(self, work: Cycle) -> str:
        share = work.part.progress if work.part is not None else None
        return work.where if share is None else f"{work.where}, {share:.0%}"

    def result(self, work: Cycle) -> str:
        return " ".join([answer_of(work).sentence, *answer_of(work).notes])


def _with_dataset(choice: TasksChoice, user: User, project: Project, folder: Path) -> TasksChoice:
    """A file becomes a dataset; the same tasks again are the same version. Raises RecipeError, ValidationError, CommandError."""
    if choice.path is None or choice.data is None:
        return choice
    version = version_of(choice.data, user=user, project=project, folder=folder)
    verifier = choice.verifier or VerifierChoice()
    return TasksChoice(dataset=version.reference, verifier=verifier, max_tasks=choice.max_tasks)
