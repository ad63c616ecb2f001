"""`manage.py evaluate config.yaml`: the same launch as the page's and the API's, for scripts on this machine."""

from __future__ import annotations

from pathlib import Path

from evsys_web.accounts.models import Project, User
from evsys_web.evals.actions import benchmark_of, launch_eval
from evsys_web.evals.models import EvalRun
from evsys_web.evals.schemas import EvalDetail
from evsys_web.evals.tasks import run_eval
from evsys_web.runs.commands import LaunchCommand, version_of
from recipes.eval_config import EvalConfig


class Command(LaunchCommand[EvalRun]):
    help = "Launch an eval run from a YAML file. Its tasks are a dataset here (data.dataset) or a JSONL file (data.path)."
    noun = "Eval run"
    task = run_eval
    detail = EvalDetail

    def launch(self, text: str, *, user: User, project: Project, folder: Path) -> EvalRun:
        config = EvalConfig.from_yaml(text)
        version = version_of(config.data, user=user, project=project, folder=folder)
        verifier = config.verifier.model_dump()
        benchmark = benchmark_of(user=user, project=project, dataset_version=version, verifier=verifier, split=config.data.split)
        return launch_eval(user=user, project=project, config=config, benchmark=benchmark)

    def progress(self, work: EvalRun) -> str:
        return f"{work.num_done + work.num_errors:,} of {work.num_attempts:,} attempts"

    def result(self, work: EvalRun) -> str:
        found = work.summary.get("avg")
        if not found:
            return ""
        interval = f" ({found['low']:.1%} to {found['high']:.1%})" if found["low"] is not None else ""
        return f"{found['value']:.1%}{interval} of {work.num_done:,} attempts are right; {work.num_errors:,} errors."
