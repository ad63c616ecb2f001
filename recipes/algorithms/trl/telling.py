"""How a run over several processes tells the one that launched it what it does, and hears of a stop: lines in two files.

Nothing of it is needed where nobody launched it (`accelerate launch` by hand). A launcher that dies takes the processes with it:
they hold the other end of its pipe.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from recipes.protocols import Callback
from recipes.stores import metrics_to_json
from recipes.types import Checkpoint, LoopState, Metrics, RunResult, StopRequest, TrainingBatch

TOLD_FILE, STOP_FILE = "told.jsonl", "stop"
ROWS_FILE, HELD_OUT_FILE = "rows.jsonl", "validation_rows.jsonl"
POLL_SECONDS = 0.5


class Tells(Callback):
    """A line of JSON per call that the launcher passes on; of a checkpoint only its name, since the manifest holds the rest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: BinaryIO = (folder / TOLD_FILE).open("ab", buffering=0)
        self._ended = threading.Event()

    def on_train_start(self, state: LoopState) -> None:
        self._tell("start", step=state.start_step, num_steps=state.num_steps)
        threading.Thread(target=self._hear_of_a_stop, args=(state,), daemon=True).start()

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self._tell("step", step=step, metrics=metrics_to_json(metrics))

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None:
        self._tell("eval", step=step, name=name, metrics=metrics_to_json(metrics))

    def on_checkpoint(self, state: LoopState, checkpoint: Checkpoint) -> None:
        self._tell("checkpoint", step=state.step, name=checkpoint.name)

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        self._tell("event", step=state.step, level=level, message=message)

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        self._ended.set()
        self._tell("end", step=state.step, result=asdict(result) | {"metrics": metrics_to_json(result.metrics)})

    def _tell(self, what: str, **values: Any) -> None:
        self._told.write((json.dumps({"what": what, **values}, allow_nan=False) + "\n").encode())

    def _hear_of_a_stop(self, state: LoopState) -> None:
        while not self._ended.wait(POLL_SECONDS):
            asked = stop_asked(self._folder)
            if asked is StopRequest.EARLY:
                state.finish_early()
            elif asked is StopRequest.NOW and state.stop_requested is not StopRequest.NOW:
                state.request_stop()  # as often as it takes to be the second time
            elif asked is StopRequest.AFTER_STEP and state.stop_requested not in (StopRequest.AFTER_STEP, StopRequest.NOW):
                state.request_stop()


def stop_asked(folder: Path) -> StopRequest:
    try:
        return StopRequest((folder / STOP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return StopRequest.NONE


def die_with_the_launcher() -> None:
    """Ends this process when the one that launched it is gone, however that ended: its pipe ends."""

    def wait() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
