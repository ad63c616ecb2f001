"""The table of an eval's tasks: which of them, in which order, and which comes before and after one. Read from EvalTask alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from django.db.models import Count, F, Q, QuerySet

from evsys_web.evals.models import EvalRun, EvalTask, Outcome

SHOWS = {
    "all": ("All", Q()),
    "failed": ("Failed", Q(outcome=Outcome.FAILED)),
    "mixed": ("Mixed", Q(outcome=Outcome.MIXED)),
    "solved": ("Solved", Q(outcome=Outcome.SOLVED)),
    "error": ("With errors", Q(num_errors__gt=0)),
    "leaked": ("Leaked", Q(is_leaked=True)),
}
SORTS = {"position": "position", "right": "accuracy", "reward": "sum_reward", "errors": "num_errors", "task": "task_id"}


class Choice(NamedTuple):
    show: str
    label: str
    num_tasks: int


class Column(NamedTuple):
    """sort: what a click on the heading asks for, empty where nothing can be sorted; direction: how the table is sorted now."""

    label: str
    sort: str = ""
    direction: str = ""
    is_number: bool = False


class TaskTable:
    """What an address asks for by `show` and `sort` (a name of SORTS, with - in front for the other way round). Anything else
    shows all tasks in the benchmark's order."""

    def __init__(self, run: EvalRun, asked: Mapping[str, str]) -> None:
        self.run = run
        self.show = asked.get("show", "") if asked.get("show", "") in SHOWS else "all"
        sort = asked.get("sort", "")
        self.sort = sort if sort.removeprefix("-") in SORTS else "position"

    @property
    def label(self) -> str:
        return SHOWS[self.show][0]

    @property
    def query(self) -> str:
        """The part of an address that keeps filter and order; empty for all tasks in order."""
        kept = {"show": self.show if self.show != "all" else "", "sort": self.sort if self.sort != "position" else ""}
        text = urlencode({name: value for name, value in kept.items() if value})
        return f"?{text}" if text else ""

    def columns(self) -> list[Column]:
        return [
            self._column("#", "position", is_number=True),
            self._column("Task", "task"),
            Column("Outcome"),
            self._column("Correct", "right", is_number=True),
            self._column("Mean reward", "reward", is_number=True),
            self._column("Errors", "errors", is_number=True),
        ]

    def choices(self) -> list[Choice]:
        """Every filter with how many tasks it shows, counted in one query; leaked ones only where there are any."""
        counts = self.run.tasks.aggregate(
            **{show: Count("pk", filter=condition or None) for show, (_, condition) in SHOWS.items()}
        )
        asked_for = [show for show in SHOWS if show != "leaked" or counts[show] or self.show == show]
        return [Choice(show, SHOWS[show][0], counts[show]) for show in asked_for]

    def tasks(self) -> QuerySet[EvalTask]:
        """The tasks shown, in order; equals in the benchmark's order, those without a verdict last."""
        name = SORTS[self.sort.removeprefix("-")]
        found: QuerySet[EvalTask] = self.run.tasks.filter(SHOWS[self.show][1])
        column = F("sum_reward") / F("n") if name == "sum_reward" else F(name)
        if name == "sum_reward":
            found = found.annotate(mean_reward=column)
            column = F("mean_reward")
        order = column.desc(nulls_last=True) if self.sort.startswith("-") else column.asc(nulls_last=True)
        return found.order_by(order) if name == "position" else found.order_by(order, "position")

    def beside(self, task: EvalTask) -> tuple[int | None, int | None]:
        """Positions of the tasks before and after this one among those shown. One that the filter leaves out (an attempt may
        just have changed it) stands where the benchmark has it."""
        if self.sort == "position":
            shown = self.tasks().values_list("position", flat=True)
            before = shown.filter(position__lt=task.position).order_by("-position").first()
            return before, shown.filter(position__gt=task.position).first()
        positions = list(self.tasks().values_list("position", flat=True))
        if task.position not in positions:
            return None, positions[0] if positions else None
        at = positions.index(task.position)
        return positions[at - 1] if at else None, positions[at + 1] if at + 1 < len(positions) else None

    def _column(self, label: str, name: str, *, is_number: bool = False) -> Column:
        """Sorted by it already: the other way round. Else what a person looks for first: the worst, the most errors."""
        if self.sort.removeprefix("-") == name:
            turned = name if self.sort.startswith("-") else f"-{name}"
            return Column(label, turned, "descending" if self.sort.startswith("-") else "ascending", is_number)
        return Column(label, f"-{name}" if name == "errors" else name, "", is_number)
