"""What a worker does for an eval run. As for training, a message is only a hint that something waits."""

from __future__ import annotations

from itertools import islice

from celery import Task, shared_task

import recipes
from evsys_web.accounts.actions import reveal_credential
from evsys_web.addresses import allows_address
from evsys_web.evals.models import EvalRun
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.runs.backends import backend_secrets
from evsys_web.runs.leases import announcing_the_end
from evsys_web.runs.tasks import taken
from recipes.eval_config import EvalConfig
from recipes.evals.runner import open_verifier, refuse_unfit


@shared_task(bind=True)
def run_eval(self: Task, run_id: int) -> None:
    """Of the eval whose turn it is, make the attempts that have no verdict yet."""
    run = taken(self, EvalRun, run_id)
    if run is None:
        return
    with announcing_the_end(), EvalRecorder(run) as recorder:
        config = run.load_config()
        tasks = list(islice(run.read_tasks(), config.max_tasks))
        refuse_unfit(tasks, open_verifier(config))
        recorder.begin(tasks)
        recorder.result = recipes.evaluate(
            config,
            tasks=tasks,
            done=recorder.done,
            on_attempt=recorder.on_attempt,
            should_stop=recorder.should_stop,
            secrets=_secrets(run, config),
            allows_address=allows_address,
            remote_dir=run.remote_dir,
            report=recorder.report,
        )


def _secrets(run: EvalRun, config: EvalConfig) -> dict[str, str]:
    """The keys that the config names, by the names under which `recipes` takes them."""
    named = {
        "api_key": config.endpoint.credential if config.endpoint is not None else None,
        "judge_api_key": config.verifier.params.get("credential"),
    }
    found = {name: reveal_credential(project=run.project, name=credential) for name, credential in named.items() if credential}
    return found | (backend_secrets(run.project, config.backend) if config.model is not None else {})
