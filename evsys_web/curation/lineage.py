"""Both ways between attempts and weights: row → attempt → eval run → model, and attempt → datasets → runs → checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db.models import Q

from evsys_web.accounts.models import User
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalTask
from evsys_web.runs.models import Checkpoint, TrainingRun

MAX_RUNS = 200
"""Runs named for one dataset version, those that went on from its runs' checkpoints included."""


@dataclass(frozen=True, slots=True)
class Learner:
    """A run that was trained on a version (`through` is None), or that went on from a checkpoint of such a run."""

    run: TrainingRun
    checkpoints: list[Checkpoint]
    through: TrainingRun | None


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a dataset that an attempt became, and what learned from its split."""

    row: CuratedRow
    curation: Curation | None
    learners: list[Learner]

    @property
    def is_held_out(self) -> bool:
        """Curated versions hold the rows to learn from first."""
        return any(split["name"] == self.row.split for split in self.row.version.splits[1:])

    @property
    def row_number(self) -> int:
        return self.row.position + 1


def places_of_task(task: EvalTask, user: User) -> dict[int, list[Place]]:
    """By attempt number: every row of a version the user may see that came from this task's attempts, newest version first."""
    versions = DatasetVersion.objects.ready().visible_to(user)
    rows = CuratedRow.objects.filter(task=task, version__in=versions).select_related("version__dataset")
    found: dict[int, list[Place]] = {}
    learners: dict[tuple[int, str], list[Learner]] = {}
    made_by = _curations({row.version_id for row in rows})
    for row in sorted(rows, key=lambda row: (-row.version_id, row.position)):
        taught = (row.version_id, row.split)
        if taught not in learners:
            learners[taught] = learners_from(row.version, user, split=row.split)
        place = Place(row, made_by.get(row.version_id), learners[taught])
        found.setdefault(row.number, []).append(place)
    return found


def sources_of(version: DatasetVersion, positions: Sequence[int] = ()) -> list[CuratedRow]:
    """Where rows of a version come from, with eval run and task, in order; of a pair the chosen side first. Rows that were not
    curated are left out."""
    rows = CuratedRow.objects.filter(version=version, position__in=list(positions))
    return list(rows.select_related("eval_run", "task").order_by("position", "side"))


def learners_from(version: DatasetVersion, user: User, *, split: str | None = None) -> list[Learner]:
    """Runs that were trained on the version, or on this split of it, and runs that began from what those saved, and so on."""
    visible = TrainingRun.objects.visible_to(user).defer("error_detail").prefetch_related("checkpoints")
    trained = visible.filter(dataset_version=version)
    if split is not None:
        of_all = Q(config__data__split=None) | Q(config__data__split__isnull=True)
        trained = trained.filter(of_all | Q(config__data__split=split))
    found: dict[int, Learner] = {}
    level: list[tuple[TrainingRun, TrainingRun | None]] = [(run, None) for run in trained.order_by("-pk")[:MAX_RUNS]]
    while level and len(found) < MAX_RUNS:
        weights: dict[str, TrainingRun] = {}
        for run, through in level:
            if run.pk in found:
                continue
            checkpoints = sorted(run.checkpoints.all(), key=lambda saved: saved.step)
            found[run.pk] = Learner(run, checkpoints, through)
            weights |= {uri: run for saved in checkpoints for uri in (saved.sampler_uri, saved.state_uri) if uri}
        children = visible.filter(config__model__init_from_checkpoint__in=list(weights)).order_by("-pk")
        level = [(run, weights[run.config["model"]["init_from_checkpoint"]]) for run in children[:MAX_RUNS]]
    return list(found.values())[:MAX_RUNS]


def _curations(versions: Iterable[int]) -> dict[int, Curation]:
    """Who published a version first; what was found to give the same rows later changes nothing."""
    rows = Curation.objects.filter(dataset_version__in=list(versions)).order_by("-pk")
    return {curation.dataset_version_id: curation for curation in rows if curation.dataset_version_id is not None}
