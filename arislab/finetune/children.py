"""The processes that train, one per set: started, watched, ended, and the row that each ends in."""

import collections
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
from arislab.finetune.labels import columns_of

logger = logging.getLogger("arislab.finetune")


class Child:
    """One training process: its working folder, its log, and the row it ends in."""

    def __init__(
        self, arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None, spec: Mapping[str, Any]
    ) -> None:
        self.arm, self.device, self.folder = arm, spec["device"], Path(spec["folder"])
        self.seed = spec["settings"]["seed"]
        self.failed_log = self.folder / f"{spec['name']}-{arm}.failed.log"
        # beside the adapters: from another disk the last rename would be a copy, which can be seen half done
        self.work = Path(tempfile.mkdtemp(prefix=f".{spec['name']}-{arm}-", dir=self.folder))
        self.process: subprocess.Popen[bytes] | None = None
        self.row: dict[str, Any] = {}
        for part, frame in (("examples", examples), ("validation", validation)):
            if frame is not None:
                frame.select(*columns_of(frame)).sort("id").write_parquet(self.work / f"{part}.parquet")
        (self.work / "spec.json").write_text(json.dumps({**spec, "arm": arm}))

    def start(self) -> None:
        """Start the process, without a network and, on a CPU, with the same sums each time."""
        env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.device == "cpu":  # one thread: the same sums in the same order, so the same adapter
            env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # read at import only
        with (self.work / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arislab.finetune.worker", str(self.work / "spec.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, "PYTHONHASHSEED": "0"},  # sets of names in the same order in each process
            )
        self.started = time.monotonic()

    def progress(self) -> dict[str, Any] | None:
        """Return the last whole line of progress.jsonl."""
        path = self.work / "progress.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last may be half written
        return json.loads(lines[-1]) if lines else None

    def finished(self) -> bool:
        """Whether the process has ended; keeps its log, and raises TrainingError if it failed."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.returncode:
            (self.work / "log.txt").replace(self.failed_log)
            refused, log = self.work / "refused.txt", self.failed_log.read_text(errors="replace")
            why = refused.read_text() if refused.exists() else "its last lines:\n" + "\n".join(log.splitlines()[-12:])
            end = f"training of set {self.arm!r} ended with exit code {self.process.returncode}"
            raise TrainingError(f"{end} (seed {self.seed}, log: {self.failed_log}); {why}")
        self.row = json.loads((self.work / "result.json").read_text())
        self.row["seconds"] = round(time.monotonic() - self.started, 2)
        (self.work / "log.txt").replace(f"{self.row['model_path']}.log")
        self.failed_log.unlink(missing_ok=True)
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


def supervise(children: Sequence[Child], workers: int) -> None:
    """Run the children, at most `workers` at once, with a progress bar each."""
    from tqdm.auto import tqdm

    waiting = collections.deque(children)
    running: dict[Child, Any] = {}  # child -> its bar
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = waiting.popleft()
                child.start()
                running[child] = tqdm(desc=f"{child.arm}, seed {child.seed}", unit="step")
            time.sleep(0.1)
            for child, bar in list(running.items()):
                done, line = child.finished(), child.progress()  # in this order: the last line is there when it ends
                if line is not None and (line["step"], line["losses"]) != getattr(bar, "shown", None):
                    bar.shown = (line["step"], line["losses"])
                    bar.total, bar.n = line["steps"], line["step"]
                    bar.set_postfix({key: f"{value:.3f}" for key, value in line["losses"].items()})
                if done:
                    running.pop(child).close()
    finally:
        for bar in running.values():
            bar.close()
