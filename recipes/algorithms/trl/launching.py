"""A run over several processes of this machine, launched from the one that was asked for it, which passes on what it is told.

`accelerate launch` starts them, on GPUs with the settings that `accelerate config` wrote for this account (FSDP, DeepSpeed, …);
on processors as it starts plain ones on GPUs, since for its own way there it would want MPI. They train as by hand and write the
run's files; here only the callbacks hear of it. One of them that dies ends the run as failed, to be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.algorithms.trl.telling import HELD_OUT_FILE, ROWS_FILE, STOP_FILE, TOLD_FILE
from recipes.backends.local.config import Device
from recipes.callbacks import Dispatch, ToLogStore
from recipes.checkpoints import Manifest
from recipes.stores import metrics_from_json, write_atomically
from recipes.types import LoopState, Row, RunContext, RunResult, StopRequest

FOLDER = "processes"
LOG_FILE, CONFIG_FILE = "log.txt", "run.yaml"
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""After a stop at once, and after the end was told."""
MAX_LINES_TOLD = 12


def launch(ctx: RunContext, *, num_processes: int, on_processors: bool) -> RunResult:
    """The whole run. Callbacks hear of everything but rows and rollouts, which the processes write themselves. Raises nothing
    that was foreseen: a run that could not go on ends as failed."""
    state = LoopState(run_id=ctx.run_id, num_steps=0, output_dir=ctx.output_dir, ctx=ctx)
    stores = [ToLogStore(ctx.log_store)] if ctx.log_store is not None else []
    relay = _Relay(state, Dispatch([*ctx.callbacks, *stores], state))
    if not on_processors and (seen := torch.cuda.device_count()) < num_processes:  # accelerate would start one, without a word
        gpus = f"{seen} GPU{'s' * (seen != 1)}"
        return relay.fail(f"num_processes {num_processes} needs a GPU each, and {gpus} can be seen here. Lower it.")
    folder = ctx.output_dir.resolve() / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
    try:
        command = [*_starter(num_processes, on_processors), "-m", "recipes.algorithms.trl", *_written(ctx, folder)]
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(on_processors), start_new_session=True
            )
        try:
            _follow(process, relay, folder)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # all of them end with it
            _wait_or_kill(process)
        return relay.result or relay.lost(process.returncode, folder / LOG_FILE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_processors(device: Device) -> bool:
    return device is Device.CPU or not torch.cuda.is_available()


class _Relay:
    """Passes on to the callbacks what is told."""

    def __init__(self, state: LoopState, dispatch: Dispatch) -> None:
        self.state = state
        self.result: RunResult | None = None
        self._dispatch = dispatch

    def hear(self, told: dict[str, Any]) -> None:
        state, dispatch, what = self.state, self._dispatch, told["what"]
        if what == "start":
            state.step = state.start_step = told["step"]
            state.num_steps = told["num_steps"]
            dispatch.fire("on_train_start", state)
        elif what == "step":
            state.step = told["step"]
            dispatch.fire("on_step_end", state, state.step, None, metrics_from_json(told["metrics"]))
        elif what == "eval":
            dispatch.fire("on_eval", state, told["step"], told["name"], metrics_from_json(told["metrics"]))
        elif what == "checkpoint":
            saved = next(each for each in Manifest(state.output_dir).read() if each.name == told["name"])
            dispatch.fire("on_checkpoint", state, saved)
        elif what == "event":
            dispatch.event(told["level"], told["message"])
        elif what == "end":
            found = told["result"]
            self._end(RunResult(**found | {"metrics": metrics_from_json(found["metrics"])}))

    def lost(self, status: int | None, log: Path) -> RunResult:
        """They ended without a word of how."""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        last = "\n".join(line for line in lines if line.strip())[-4000:].splitlines()[-MAX_LINES_TOLD:]
        sentence = f"The processes of this run ended without a word (exit status {status})."
        if last:
            sentence += " Their last lines: " + "\n".join(last)
        return self.fail(sentence)

    def fail(self, sentence: str) -> RunResult:
        self._dispatch.event("error", f"Failed after step {self.state.step} of {self.state.num_steps}: {sentence}")
        failed = RunResult(self.state.run_id, "failed", error=sentence, steps=self.state.step, num_steps=self.state.num_steps)
        self._end(failed)
        return failed

    def _end(self, result: RunResult) -> None:
        self.result = result
        self._dispatch.fire("on_train_end", self.state, result)
        self._dispatch.report_failures()


def _follow(process: subprocess.Popen[bytes], relay: _Relay, folder: Path) -> None:
    """Until the end was told, or nobody is left to tell it."""
    sent, began = StopRequest.NONE, 0.0
    lines = _lines(folder / TOLD_FILE)
    while relay.result is None:
        is_over = process.poll() is not None
        for told in iter(lambda: next(lines), None):
            relay.hear(told)
        asked = relay.state.stop_requested
        if asked is not sent:
            write_atomically(folder / STOP_FILE, str(asked))
            sent, began = asked, time.monotonic()
        if is_over or (sent is StopRequest.NOW and time.monotonic() - began > GRACE_SECONDS):
            return
        time.sleep(POLL_SECONDS)


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """What was written whole so far, line by line; None whenever there is no more yet."""
    while not path.exists():
        yield None
    with path.open("rb") as file:
        rest = b""
        while True:
            rest += file.read()
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield json.loads(line)
            yield None


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _written(ctx: RunContext, folder: Path) -> list[str]:
    """The run as its processes read it, and the arguments that say so."""
    folder.mkdir(parents=True)
    write_atomically(folder / CONFIG_FILE, ctx.config.to_yaml())
    arguments = [str(folder / CONFIG_FILE), "--output-dir", str(ctx.output_dir.resolve()), "--run-id", ctx.run_id]
    arguments += ["--launched-from", str(folder), *(["--resume"] if ctx.resume_from is not None else [])]
    _write_rows(folder / ROWS_FILE, ctx.extras.get("train_rows", []))
    if (held_out := ctx.extras.get("validation_rows")) is not None:
        _write_rows(folder / HELD_OUT_FILE, held_out)
    return arguments


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _starter(num_processes: int, on_processors: bool) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
    command += ["--main_process_port", port]
    if on_processors:  # what an account has configured is meant for its GPUs
        command += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return command


def _environment(on_processors: bool) -> dict[str, str]:
    """This program's own settings, its secrets among them, are none of their business."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVSYS_")}
    root = str(Path(__file__).resolve().parents[3])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    return kept | ({"ACCELERATE_USE_CPU": "true"} if on_processors else {})
