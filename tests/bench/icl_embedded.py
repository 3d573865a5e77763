"""Cells of the in-context search, a set of examples on a row, answered by the real embedded model and kept on disk.

For benches only.

`arislab serve` reads each prompt anew in small batches; a bench needs a million cells. Here a set's prefix is read once
and its rows are answered in C (``icl_embedded.c``, compiled at first use with cc), the same model, texts and scorers.
``python tests/bench/icl_embedded.py`` compares 300 answers with ``arislab.tiny.decoder`` and prints cells per second of
both.
"""

import ctypes
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from arislab import batch, curate, icl, scoring
from arislab import task as tasks
from arislab.tiny import decoder
from arislab.tiny.candidates import compose

SOURCE = Path(__file__).with_suffix(".c")
CAPACITY = 1024  # tokens of a prefix
MAX_TOKENS = 160
Example = tuple[str, str]
"""Input, output."""


# what -ffast-math means for sums, one by one: linked as such it would take subnormal floats from the whole process that
# loads the library
_FAST = (
    "no-math-errno",
    "no-signed-zeros",
    "no-trapping-math",
    "associative-math",
    "reciprocal-math",
    "finite-math-only",
)
FLAGS = ("-O3", "-march=native", *(f"-f{name}" for name in _FAST), "-shared", "-fPIC", "-Wall")


def library(folder: Path) -> ctypes.CDLL:
    """The C decoder, compiled into ``folder``."""
    code = SOURCE.read_bytes() + " ".join(FLAGS).encode()
    path = folder / f"icl_embedded-{hashlib.sha256(code).hexdigest()[:12]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", *FLAGS, "-o", str(made), str(SOURCE), "-lm"], check=True)
        made.rename(path)
    return ctypes.CDLL(str(path))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class Decoder:
    """The embedded model behind ``icl_embedded.c``."""

    def __init__(self, folder: Path) -> None:
        self.engine = decoder.Engine()
        model = self.engine._base_model
        assert (model.n_layers, model.n_heads, model.n_kv, model.width, model.embed.shape[1]) == (4, 4, 2, 64, 128)
        self.library = library(folder)
        self.library.icl_new.restype = ctypes.c_void_p
        in_order = [  # as the C code reads them
            (attention_norm, qkv, out, mlp_norm, gate_up, down)
            for attention_norm, mlp_norm, (qkv, out, gate_up, down) in model.layers
        ]
        self.kept = [np.ascontiguousarray(w.numpy()) for layer in in_order for w in layer]
        sin = model.sin[:, model.width // 2 :].repeat(1, 2)  # there its first half is negative
        rest = [np.ascontiguousarray(w.numpy()) for w in (model.embed, model.norm, model.unembed, model.cos, sin)]
        weights = (ctypes.c_void_p * len(self.kept))(*(w.ctypes.data for w in self.kept))
        self.kept += rest
        self.model = ctypes.c_void_p(
            self.library.icl_new(
                weights, *map(pointer, rest), ctypes.c_int(model.embed.shape[0]), ctypes.c_int(CAPACITY)
            )
        )
        (self.end,) = self.engine.ends
        marks = [
            {"role": r, "content": c}
            for r, c in (("system", "@0"), ("user", "@1"), ("assistant", "@2"), ("user", "@3"))
        ]
        text = self.engine.template.render(marks)
        self.pieces = []
        for i in range(4):
            piece, text = text.split(f"@{i}")
            self.pieces.append(piece)
        self.pieces.append(text)

    def tokens(self, text: str) -> list[int]:
        return self.engine.tokenizer.encode(text, add_special_tokens=False).ids

    def turns(self, example: Example) -> list[int]:
        """Tokens of one example, as earlier turns."""
        return self.tokens(f"{self.pieces[1]}{example[0]}{self.pieces[2]}{example[1]}")

    def head(self, system: str) -> list[int]:
        return self.tokens(self.pieces[0] + system)

    def tail(self, question: str) -> list[int]:
        return self.tokens(self.pieces[3] + question + self.pieces[4])

    def generate(
        self,
        prefixes: Sequence[Sequence[int]],
        group_of: Sequence[int],
        tails: Sequence[Sequence[int]],
        noise: np.ndarray,
        temperatures: Sequence[float],
    ) -> list[str]:
        """Answer rows that stand group by group; ``noise`` [rows, MAX_TOKENS] is what torch draws for their seeds."""
        assert max(map(len, prefixes)) <= CAPACITY
        assert max(map(len, tails)) + MAX_TOKENS <= 256
        at = [np.cumsum([0, *map(len, lists)], dtype=np.int32) for lists in (prefixes, tails)]
        flat = [np.concatenate([np.asarray(x, dtype=np.int32) for x in lists]) for lists in (prefixes, tails)]
        n = len(tails)
        groups, noise = np.asarray(group_of, dtype=np.int32), np.ascontiguousarray(noise, dtype=np.float32)
        heat = np.asarray(temperatures, dtype=np.float32)
        written = np.zeros((n, MAX_TOKENS), dtype=np.int32)
        counts, ended = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)
        self.library.icl_decode(
            self.model, pointer(at[0]), pointer(flat[0]), ctypes.c_int(n), pointer(groups), pointer(at[1]),
            pointer(flat[1]),
            pointer(noise), pointer(heat), ctypes.c_int(MAX_TOKENS), ctypes.c_int(self.end), pointer(written),
            pointer(counts),
            pointer(ended),
        )  # fmt: skip
        decode = self.engine.tokenizer.decode
        return [decode(row[:k].tolist(), skip_special_tokens=True) for row, k in zip(written, counts, strict=True)]


def candidates(n: int, *, seed: int, split: str) -> pl.DataFrame:
    """``n`` fresh synthetic candidates of one split, one per group."""
    share = {"train": 0.8, "validation": 0.1}[split]
    frame = compose(round(n / share * 1.15) + 200, seed=seed).filter(pl.col("split") == split)
    frame = curate.one_per_group(frame).head(n)
    assert frame.height == n
    return frame


class Cells:
    """Answers to sets of examples on fixed rows: asked once, then read from disk.

    Args:
        path: SQLite file.
        decoder: Answers.
        rows: Candidates.
        temperature: Of sampling, 0 for greedy.
        seed: Of the answers; a row has the same random numbers under every set, as in phase 3.
    """

    def __init__(self, path: Path, decoder: Decoder, rows: pl.DataFrame, *, temperature: float, seed: int = 1) -> None:
        import torch

        self.decoder, self.rows, self.temperature, self.seed = decoder, rows, temperature, seed
        self.task = tasks.load("candidate_evaluation")
        self.requests = self.build(())
        chats = [json.loads(text) for text in self.requests["messages"]]
        self.base = decoder.head(chats[0][0]["content"])
        self.tails = [decoder.tail(chat[-1]["content"]) for chat in chats]
        seeds = [json.loads(body)["seed"] for body in self.requests["body"]]
        self.noise = torch.stack(
            [torch.rand(MAX_TOKENS, generator=torch.Generator().manual_seed(s)) for s in seeds]
        ).numpy()
        facts = [temperature, seed, self.task.version, decoder.engine.base, rows["candidate_id"].to_list()]
        self.name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        self.disk = sqlite3.connect(path, timeout=60)
        self.disk.execute(
            "create table if not exists cells (rows text, examples text, quality blob, primary key (rows, examples))"
        )
        self.known: dict[str, np.ndarray] = {}
        self.turns: dict[Example, list[int]] = {}
        self.n_answered, self.seconds = 0, 0.0

    def build(self, examples: Sequence[Example]) -> pl.DataFrame:
        """The requests that phase 3 sends."""
        write = icl.with_examples(self.task.to_messages, examples)
        return batch.build_requests(
            self.rows, write, model=self.decoder.engine.base, temperature=self.temperature, max_tokens=MAX_TOKENS,
            seed=self.seed, pair_by_candidate=True,
        )  # fmt: skip

    def _known(self, examples: Sequence[Example]) -> tuple[str, np.ndarray]:
        name = hashlib.sha256(json.dumps(examples).encode()).hexdigest()[:24]
        if name not in self.known:
            row = self.disk.execute(
                "select quality from cells where rows = ? and examples = ?", (self.name, name)
            ).fetchone()
            value = (
                np.frombuffer(row[0], dtype=np.float32).copy() if row else np.full(self.rows.height, np.nan, np.float32)
            )
            self.known[name] = value
        return name, self.known[name]

    def texts(self, wanted: Sequence[tuple[Sequence[Example], Sequence[int]]]) -> list[list[str]]:
        """Answers of sets on rows (indices), set by set."""
        prefixes = []
        for examples, _ in wanted:
            tokens = list(self.base)
            for example in examples:
                if example not in self.turns:
                    self.turns[example] = self.decoder.turns(example)
                tokens += self.turns[example]
            prefixes.append(tokens)
        at = np.array([v for _, rows in wanted for v in rows])
        groups = np.repeat(np.arange(len(wanted)), [len(rows) for _, rows in wanted])
        heat = np.full(len(at), self.temperature)
        answers = self.decoder.generate(prefixes, groups, [self.tails[v] for v in at], self.noise[at], heat)
        ends = np.cumsum([0, *(len(rows) for _, rows in wanted)])
        return [answers[a:b] for a, b in pairwise(ends)]

    def scores(self, texts: Sequence[str], rows: Sequence[int]) -> np.ndarray:
        """Quality of answers by the task's own scorers."""
        frame = self.rows[list(rows)].select("candidate_id", "profile", "title", "category", "use_case", "company")
        frame = frame.with_columns(output=pl.Series(list(texts), dtype=pl.String), custom_id="candidate_id")
        return scoring.score(frame, self.task)["quality"].to_numpy().astype(np.float32)

    def ask(
        self, wanted: Sequence[tuple[Sequence[Example], Sequence[int]]], *, at_once: int = 4_000
    ) -> list[np.ndarray]:
        """Quality of sets on rows (indices); what is on disk is not answered again."""
        new: list[tuple[Sequence[Example], list[int]]] = []
        for examples, rows in wanted:
            _, known = self._known(examples)
            missing = [v for v in dict.fromkeys(rows) if np.isnan(known[v])]
            if missing:
                new.append((examples, missing))
        while new:
            n, part = 0, []
            while new and (not part or n + len(new[0][1]) <= at_once):
                part.append(new.pop(0))
                n += len(part[-1][1])
            began = time.perf_counter()
            answered = self.texts(part)
            quality = self.scores([t for texts in answered for t in texts], [v for _, rows in part for v in rows])
            self.seconds += time.perf_counter() - began
            self.n_answered += n
            changed = {}
            for examples, rows in part:
                name, known = self._known(examples)
                known[rows], quality = quality[: len(rows)], quality[len(rows) :]
                changed[name] = known
            with self.disk:
                self.disk.executemany(
                    "insert or replace into cells values (?, ?, ?)",
                    [(self.name, k, v.tobytes()) for k, v in changed.items()],
                )
        return [self._known(examples)[1][list(rows)].astype(float) for examples, rows in wanted]


def compare(n_sets: int = 25, n_rows: int = 12) -> dict[str, float]:
    """Answers of the C decoder beside those of ``arislab.tiny.decoder``, on prompts with 0 to 5 examples."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        counts = {"cells": 0, "same_text": 0}
        decode = Decoder(Path(os.environ.get("ICL_EMBEDDED", folder)))
        fast_s = engine_s = 0.0
        for temperature in (0.9, 0.0):
            rows = candidates(n_rows, seed=9001, split="validation")
            pool = candidates(60, seed=9002, split="train")
            first = Cells(Path(folder) / "a.sqlite", decode, pool, temperature=0.9)
            answers = first.texts([((), range(pool.height))])[0]
            examples = list(zip(first.requests["input"], answers, strict=True))
            cells = Cells(Path(folder) / "b.sqlite", decode, rows, temperature=temperature)
            sets = [[examples[i] for i in rng.permutation(60)[: int(rng.integers(6))]] for _ in range(n_sets)]
            began = time.process_time()
            fast = cells.texts([(s, range(n_rows)) for s in sets])
            fast_s += time.process_time() - began
            bodies = [json.loads(body) for s in sets for body in cells.build(s)["body"]]
            asked = [
                decoder.Request(b["messages"], b["model"], b["temperature"], max_tokens=b["max_tokens"], seed=b["seed"])
                for b in bodies
            ]
            began = time.process_time()
            slow = [a.text for a in decode.engine.generate(asked)]
            engine_s += time.process_time() - began
            counts["cells"] += len(slow)
            counts["same_text"] += sum(a == b for a, b in zip([t for ts in fast for t in ts], slow, strict=True))
    return {**counts, "cells_per_cpu_s": counts["cells"] / fast_s, "cells_per_cpu_s_engine": counts["cells"] / engine_s}


if __name__ == "__main__":
    json.dump(compare(), sys.stdout, indent=1)
