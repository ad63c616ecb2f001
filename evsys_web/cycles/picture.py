"""The lineage of a cycle as a picture: eval → filter → rows → run → checkpoint → eval, a row a round, each a way to the thing.

Two layouts of the same boxes: wide (a round is a line, for a desk) and tall (everything below each other, for a phone). What is
still to come in the round under way is drawn as well, as a shape without a link, so that the whole loop is seen from the start.
Numbers are user units of the SVG, one of which is a pixel at full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evsys_web.cycles.models import Cycle, CycleRound, short_name
from evsys_web.evals.models import EvalRun
from evsys_web.evals.templatetags.eval_numbers import percent
from evsys_web.runs.models import TrainingRun

WIDTH, HEIGHT = 152, 54
GAP_X, GAP_Y = 28, 44
TALL_WIDTH, TALL_GAP, MARGIN = 300, 20, 34
LONGEST = 18
COLUMNS = 6


class Box(NamedTuple):
    """kind: the small words on top; text: the large ones; full: the latter uncut. status: of the work, or ready, or coming."""

    kind: str
    text: str
    url: str = ""
    status: str = "ready"
    full: str = ""

    @property
    def shown(self) -> str:
        return self.text if len(self.text) <= LONGEST else f"{self.text[: LONGEST - 1]}…"


class Placed(NamedTuple):
    box: Box
    x: int
    y: int


class Picture(NamedTuple):
    """arrows: paths, each ending at a box."""

    name: str
    width: int
    height: int
    box_width: int
    box_height: int
    boxes: list[Placed]
    arrows: list[str]


def pictures_of(cycle: Cycle, rounds: Sequence[CycleRound]) -> list[Picture]:
    start = [
        Box("Model", short_name(cycle.model_name), full=f"The model {cycle.model_name} as it was"),
        _eval("Baseline", cycle.baseline),
    ]
    lines = [_line(cycle, round_) for round_ in rounds or [CycleRound(number=1)]]
    return [_wide(start, lines), _tall(start, lines)]


def _line(cycle: Cycle, round_: CycleRound) -> list[Box]:
    number, curation, checkpoint = round_.number, round_.curation, round_.checkpoint
    text = str(cycle.config.get("curation", {}).get("filter", ""))
    version = curation.dataset_version if curation else None
    rows = curation.counts.get("num_rows", 0) if curation else 0
    return [
        _eval(f"Round {number}: attempts", round_.eval_run),
        Box("Filter", text, curation.get_absolute_url() if curation else "", "ready" if curation else "coming", text),
        Box("Rows", f"{rows:,} rows", version.get_absolute_url() if version else "", full=curation.dataset_reference)
        if curation
        else Box("Rows", "–", status="coming"),
        _run(round_.training_run),
        Box("Checkpoint", f"after step {checkpoint.step:,}", checkpoint.get_absolute_url(), full=checkpoint.name)
        if checkpoint
        else Box("Checkpoint", "–", status="coming"),
        _eval("Held-out eval", round_.judged),
    ]


def _eval(kind: str, run: EvalRun | None) -> Box:
    if run is None:
        return Box(kind, "–", status="coming")
    avg = run.summary.get("avg")
    text = f"{percent(avg['value'])} right" if avg else run.get_status_display()
    return Box(kind, text, run.get_absolute_url(), str(run.status), run.name)


def _run(run: TrainingRun | None) -> Box:
    if run is None:
        return Box("Training run", "–", status="coming")
    done = f"{run.step:,} / {run.num_steps:,} steps" if run.num_steps else run.get_status_display()
    return Box("Training run", done, run.get_absolute_url(), str(run.status), run.name)


def _wide(start: list[Box], lines: list[list[Box]]) -> Picture:
    """Model and baseline on top; from each checkpoint an arrow down and back to the next round's first box."""

    def x(column: int) -> int:
        return 1 + column * (WIDTH + GAP_X)

    def y(row: int) -> int:
        return 1 + row * (HEIGHT + GAP_Y)

    middle = HEIGHT // 2
    boxes = [Placed(start[0], x(0), y(0)), Placed(start[1], x(COLUMNS - 1), y(0))]
    arrows = [f"M{x(0) + WIDTH} {y(0) + middle}H{x(COLUMNS - 1) - 2}"]
    for row, line in enumerate(lines, start=1):
        boxes += [Placed(box, x(column), y(row)) for column, box in enumerate(line)]
        arrows += [f"M{x(column) + WIDTH} {y(row) + middle}H{x(column + 1) - 2}" for column in range(COLUMNS - 1)]
        if row == 1:
            arrows.append(f"M{x(0) + WIDTH // 2} {y(0) + HEIGHT}V{y(1) - 2}")
        else:
            arrows.append(f"M{x(4) + WIDTH // 2} {y(row - 1) + HEIGHT}V{y(row) - GAP_Y // 2}H{x(0) + WIDTH // 2}V{y(row) - 2}")
    return Picture("wide", x(COLUMNS) - GAP_X + 1, y(len(lines) + 1) - GAP_Y + 1, WIDTH, HEIGHT, boxes, arrows)


def _tall(start: list[Box], lines: list[list[Box]]) -> Picture:
    """One below the other; what goes on from a model or a checkpoint passes the held-out eval on the left."""
    chain = [start[0], start[1], *(box for line in lines for box in line)]
    step = HEIGHT + TALL_GAP
    boxes = [Placed(box, MARGIN, 1 + at * step) for at, box in enumerate(chain)]
    arrows = []
    for at in range(1, len(chain)):
        begins_a_round = (at - 2) % COLUMNS == 0 and at >= 2
        if begins_a_round:  # from the model or checkpoint two boxes up, beside the eval between
            top = 1 + (at - 2) * step + HEIGHT // 2
            arrows.append(f"M{MARGIN} {top}H10V{1 + at * step + HEIGHT // 2}H{MARGIN - 2}")
        else:
            arrows.append(f"M{MARGIN + TALL_WIDTH // 2} {1 + (at - 1) * step + HEIGHT}V{1 + at * step - 2}")
    return Picture("tall", MARGIN + TALL_WIDTH + 1, 2 + len(chain) * step - TALL_GAP, TALL_WIDTH, HEIGHT, boxes, arrows)
