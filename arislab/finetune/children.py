"""The processes that train, one per set: started, watched, ended, and the row that each ends in."""

import collections
import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import TrainingError
from arislab.finetune import checkpoints, limits, ranks
from arislab.finetune.labels import columns_of
from arislab.system import processes
from arislab.system.forking import Fork, Forks

logger = logging.getLogger("arislab.finetune")
_FORKS = Forks(
    *("datasets", "peft", "transformers.trainer", "transformers.models.auto.modeling_auto"),
    *("transformers.models.auto.tokenization_auto", "trl.trainer.sft_trainer"),
)
_BAR = "{desc}: {n_fmt}/{total_fmt} steps |{bar}| {elapsed}{postfix}"


class Child:
    """One training process: its working folder, its log, and the row it ends in."""

    def __init__(
        self, arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None, spec: Mapping[str, Any]
    ) -> None:
        self.arm, self.device, self.folder = arm, spec["device"], Path(spec["folder"])
        self.settings, self.seed = spec["settings"], spec["settings"]["seed"]
        self.until_settled = spec["until_settled"]
        self.failed_log = self.folder / f"{spec['name']}-{arm}.failed.log"
        # beside the adapters: from another disk the last rename would be a copy, which can be seen half done
        self.work = Path(tempfile.mkdtemp(prefix=f".{spec['name']}-{arm}-", dir=self.folder))
        self.process: subprocess.Popen[bytes] | Fork | None = None
        self.gpus = ""
        self.row: dict[str, Any] = {}
        try:
            # first, as it says whose folder this is
            (self.work / "spec.json").write_text(json.dumps({**spec, "arm": arm}))
            for part, frame in (("examples", examples), ("validation", validation)):
                if frame is not None:
                    frame.select(*columns_of(frame)).sort("id").write_parquet(self.work / f"{part}.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            self.close()
            if (limit := limits.reached(error)) is None:
                raise
            raise TrainingError(f"{arm!r} was not trained: {error}. {self._advice(limit, workers=1)}.") from error

    def start(self, gpus: str) -> None:
        """Start the process on these GPUs, without a network and, on a CPU, with the same sums each time."""
        self.gpus = gpus
        env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.device == "cpu":  # one thread: the same sums in the same order, so the same adapter
            env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}  # read at import only
        env["CUDA_VISIBLE_DEVICES"] = gpus  # the trainer would cut each batch among all that it sees
        n = self.settings.get("num_processes", 1)
        python, *arguments = ranks.command(self.work / "spec.json", n)
        env = {**ranks.outside(), **env, "PYTHONHASHSEED": "0"}  # sets of names in the same order each time
        path, self.started = self.work / "log.txt", time.monotonic()
        # what comes with a GPU may not be forked once it is imported
        if self.device == "cpu" and self.settings["backend"] == "trl" and n == 1 and sys.platform == "linux":
            path.touch()  # of a full disk this process is told
            with contextlib.suppress(EOFError):
                self.process = _FORKS.start(arguments, environment=env, log=path)
                return
        with path.open("wb") as log:
            self.process = subprocess.Popen(
                [python, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env
            )

    def progress(self) -> dict[str, Any] | None:
        """Return the last whole line of progress.jsonl."""
        path = self.work / "progress.jsonl"
        if not path.exists():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")[:-1]  # the last may be half written
        return json.loads(lines[-1]) if lines else None

    def finished(self, *, workers: int) -> bool:
        """Whether the process has ended; keeps its log, and raises TrainingError if it failed."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.returncode:
            (self.work / "log.txt").replace(self.failed_log)
            raise TrainingError(self._why(self.process.returncode, workers=workers))
        self.row = json.loads((self.work / "result.json").read_text())
        self.row["seconds"] = round(self.row["seconds"] + time.monotonic() - self.started, 2)
        (self.work / "log.txt").replace(f"{self.row['model_path']}.log")
        self.failed_log.unlink(missing_ok=True)
        if self.until_settled:
            checkpoints.mark(self._checkpoints(), self.row["id"])
        else:
            checkpoints.discard(self._checkpoints())
        rows = json.loads(self.row["hyperparameters"])["rows"]
        if len(rows) > 1:
            logger.warning(
                "%d of %d examples of set %r are not trained: %s",
                sum(rows.values()) - rows["ok"],
                sum(rows.values()),
                self.arm,
                rows,
            )
        return True

    def _checkpoints(self) -> Path:
        return Path((self.work / "checkpoints.txt").read_text())

    def _why(self, code: int, *, workers: int) -> str:
        """Say how the process ended, why, and what to do."""
        refused, log = self.work / "refused.txt", self.failed_log.read_text(errors="replace")
        why = refused.read_text() if refused.exists() else ""  # empty: the disk had no room for it
        limit, line = limits.of_exit(code), self.progress()
        if self.settings.get("num_processes", 1) > 1:  # the exit code is the launcher's
            limit = limit or limits.of_launch(log) or limits.reached(RuntimeError(why))
        about = f"(seed {self.seed}, log: {self.failed_log})"
        if limit is None:
            why = why or "its last lines:\n" + "\n".join(log.splitlines()[-12:])
            return f"training of set {self.arm!r} ended with exit code {code} {about}; {why}"
        if code < 0:
            why = "it was killed (SIGKILL), as Linux does to what needs too much memory"
        what = "memory" if limit == errno.ENOMEM else "disk"
        at = f" at step {line['step']:,} of {line['steps']:,}" if line else ""
        end = f"training of set {self.arm!r} ran out of {what}{at} {about}: {why or os.strerror(limit)}"
        saved = checkpoints.steps(self._checkpoints()) if (self.work / "checkpoints.txt").exists() else []
        again = f"goes on from step {saved[-1]:,}" if saved else "starts anew, as there is no checkpoint yet"
        return f"{end}. {self._advice(limit, workers=workers)}. Run again with the same settings, it {again}."

    def _advice(self, limit: int, *, workers: int) -> str:
        return limits.what_to_change(limit, self.settings, workers=workers, folder=str(self.folder))

    def close(self) -> None:
        """End the process if it still runs, and remove what it left."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove the working folders of trainings whose parents were killed."""
    for path in folder.glob(".*/spec.json"):
        try:
            parent = json.loads(path.read_text()).get("parent")
        except (OSError, ValueError):  # another process removes it, or is writing it
            continue
        if parent and processes.gone(parent):
            shutil.rmtree(path.parent, ignore_errors=True)


def supervise(children: Sequence[Child], workers: int, gpus: Sequence[str] = ()) -> None:
    """Run the children, at most `workers` at once, with a progress bar each; `gpus` are what one after the other gets.

    Example:
        With ``["0", "1"]`` two trainings at once have a GPU each; on a CPU there are none.
    """
    from tqdm.auto import tqdm

    waiting = collections.deque(children)
    running: dict[Child, Any] = {}  # child -> its bar
    workers = min(workers, len(children))
    free = [gpus[at % len(gpus)] if gpus else "" for at in range(workers)]
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = waiting.popleft()
                child.start(free.pop(0))
                running[child] = tqdm(
                    desc=f"{child.arm}, seed {child.seed}", bar_format=_BAR, mininterval=1.0, miniters=0
                )
            time.sleep(0.1)
            for child, bar in list(running.items()):
                # in this order: the last line is there when it ends
                done, line = child.finished(workers=workers), child.progress()
                if line is not None and line != getattr(bar, "shown", None):
                    bar.shown, bar.total = line, line["steps"]
                    bar.set_postfix_str(in_words(line), refresh=False)
                    bar.update(line["step"] - bar.n)  # draws at most once a second
                if done:
                    bar.refresh()
                    running.pop(child).close()
                    free.append(child.gpus)
    finally:
        for bar in running.values():
            bar.close()


def in_words(line: Mapping[str, Any]) -> str:
    """Return losses, pace and time left of a line of progress.

    Example:
        >>> in_words({"losses": {"train_loss": 0.412}, "tokens_per_s": 1234.5, "left_s": 200})
        'train_loss 0.412, 1,234 trained tokens/s, 3:20 left'
    """
    words = [f"{key} {value:.3f}" for key, value in line["losses"].items()]
    if line["tokens_per_s"] is not None:
        minutes, seconds = divmod(line["left_s"], 60)
        words += [f"{line['tokens_per_s']:,.0f} trained tokens/s", f"{minutes:,}:{seconds:02} left"]
    return ", ".join(words)
