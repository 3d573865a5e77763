"""A world in which cells are asked: a lake, a server that counts, and searches as the notebook makes them."""

import hashlib

import polars as pl
import pytest
from toys import good, people, serving

from arislab import batch, icl
from arislab.task import load


@pytest.fixture
def world(lake, task_file):
    """A lake, a server that counts, and a function that searches as the notebook does."""
    with serving() as (faults, url):
        faults.is_ours = True
        faults.line = lambda name, n: good(
            name, "FINE" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 else "fine"
        )
        yield World(lake, task_file, faults, batch.connect(url, folder=lake.batches))


class World:
    def __init__(self, lake, task_file, faults, server):
        self.texts = {f"e{i}": (f"question {i}", f"ANSWER {i}") for i in range(6)}
        self.lake, self.task_file, self.faults, self.server = lake, task_file, faults, server
        self.people, self.answered = people(24, "validation"), []
        self.read()

    def read(self):
        """What a run does once, in a first cell."""
        raw, cells = self.lake["training_data_raw"], self.lake["icl_cells"]
        self.recorded = batch.Recorded(raw.read(columns=batch.RECORDED), write=raw.upsert)
        self.searched = batch.Recorded(cells.read(columns=icl.SEARCHED), write=cells.upsert, key=cells.contract.key)

    def arms(self, wanted, **change):
        write = load(self.task_file).to_messages
        how = {"model": "m", "seed": 1, "pair_by_candidate": True, **change}
        sets = {s["set_id"][0]: s for s in wanted.partition_by("set_id", maintain_order=True)}
        return {
            name: batch.build_requests(
                self.people.join(s, on="candidate_id", how="semi"),
                icl.with_examples(write, [self.texts[i] for i in s["example_ids"][0]]),
                **how,
            )
            for name, s in sets.items()
        }

    def ask(self, wanted, purpose="search", **change):
        answers = icl.ask(
            wanted, self.arms(wanted, **change), candidates=self.people, server=self.server, folder=self.lake.batches,
            recorded=self.recorded, searched=self.searched, task=load(self.task_file), purpose=purpose,
        )  # fmt: skip
        self.answered.append(answers)
        return answers

    def search(self, **options):
        self.read()
        pool = pl.DataFrame({"id": list(self.texts)})
        return icl.search(pool, self.people, ask=self.ask, **({"k": 2, "budget": 100} | options))

    @property
    def most_often(self):
        """How often the request that was asked most often was asked."""
        return max(self.faults.asked.values())
