"""Scripted people for rehearsal.py: two reviewers and a lead, at the package's own desk, journals and certificates.

They decide by the rubric's score and err once in two hundred; the lead adjudicates what they differ on. First a drawn
queue is judged row by row, then categories of good rows are certified until about --approve rows are approved. May be
killed anywhere and run again: what was decided stands.
"""

import argparse
import os
import random
from pathlib import Path

import polars as pl

from arislab import curate, review
from arislab.lake import Lake
from arislab.review import adjudication, certificates, decisions, granting, sessions
from arislab.task import load

PEOPLE, LEAD, GOOD, ERROR = ("Ada", "Grace"), "Lea", 0.95, 0.005


class Review:
    """A session of a lake, and everybody who takes part."""

    def __init__(self, root, approve, seed):
        os.environ["ARISLAB_ROOT"] = str(root)
        self.lake, self.approve, self.seed = Lake(run_id="rehearsal"), approve, seed
        self.spec = load("candidate_evaluation")
        self.lake.collect()
        scored = curate.newest(self.lake["training_data_scored"].read(where={"task": self.spec.name}), self.spec)
        self.curated = self.lake["training_data_curated"].read(where={"task": self.spec.name})
        self.quality = dict(scored.select("custom_id", "quality").iter_rows())
        self.folder = self.lake.review / f"{self.spec.name}-team"
        self.settings = sessions.Settings(seed=seed)
        if not sessions.is_started(self.folder):
            sessions.start(self.folder, self.drawn(scored), self.settings, gold=curate.known(self.spec))

    def drawn(self, scored):
        people, raw = self.lake["candidates"].read(where={"split": "train"}), self.lake["training_data_raw"]
        fetch = lambda ids: raw.read(where={"custom_id": ids})  # noqa: E731 - as review_page.ipynb has it
        show = curate.showing(scored, fetch, people, curated=self.curated, task=self.spec)
        rows, reviews = curate.drawable(scored, self.curated), self.lake["reviews"].read()
        return review.queue(rows, reviews, n=max(20, self.approve // 25), seed=self.seed, show=show)

    def judge(self):
        """Everybody judges what is handed out, until nothing is; then the lead settles what they differ on."""
        desk = sessions.Session(self.folder, reviews=self.lake["reviews"].read)
        while items := [(name, item) for name in PEOPLE for item in desk.take(name, 5)]:
            for name, item in items:
                desk.decide([self.decided(name, item)], name)
        desk.close()
        self.lake.collect()
        reviews = self.lake["reviews"].read()
        rows = adjudication.disputed(self.curated, reviews, reviewer=LEAD)
        panel = adjudication.Adjudication(rows, reviewer=LEAD, decide=self.lake["reviews"].append, reviews=reviews)
        while panel.current:
            settled = panel.approve() if self.is_good(panel.current["custom_id"]) else panel.reject()
            assert settled, panel.notice

    def is_good(self, name):
        return (self.quality.get(name, 1.0) or 0.0) >= GOOD

    def decided(self, name, item):
        errs = random.Random(f"{self.seed} {name} {item['custom_id']}").random() < ERROR
        return {
            "event_id": f"{name}-{item['custom_id']}-{item['queue']}",
            "custom_id": item["custom_id"],
            "queue": item["queue"],
            "decision": "approve" if self.is_good(item["custom_id"]) != errs else "reject",
            "labels": "[]",
            "shown_sha256": decisions.sha256(item["output"]),
            "asked_sha256": decisions.sha256(item["input"]),
        }

    def certified(self):
        known = self.lake["certificates"].read(), self.lake["certified_rows"].read()
        reviews, in_force = self.lake["reviews"].read(), certificates.in_force(*known)
        return curate.usable(self.curated, reviews, approve="certified", certified=in_force).height

    def granting(self):
        return granting.Granting(
            review.fold(self.curated, self.lake["reviews"].read()),
            table=self.lake["certificates"],
            rows=self.lake["certified_rows"],
            reviews=self.lake["reviews"],
            actor=LEAD,
            hand_out=lambda queue: sessions.start(self.folder, queue, self.settings),
        )

    def finish(self):
        """Bring each certificate that was begun to an end: look by look, issued or given up."""
        while (open_ones := self.granting().overview().filter(state="fixed")).height:
            for row in open_ones.iter_rows(named=True):
                form = self.granting()
                if row["holds"]:
                    assert form.issue(row["certificate"]), form.notice
                elif row["n_next"] is None:
                    assert form.withdraw(row["certificate"], "too many rejects"), form.notice
                else:
                    assert form.look_further(row["certificate"]), form.notice
                    self.judge()

    def grant(self):
        """Certify one category after the other, each that fits into what is wanted, the largest first."""
        self.finish()
        good = self.curated.filter(pl.col("quality_score") >= GOOD)
        named = pl.col("metadata").str.json_path_match("$.category").alias("category")
        sizes = good.group_by(named).len().sort("len", "category", descending=[True, False])
        for category, size in sizes.iter_rows():
            stratum = f"quality >= {GOOD:g}, category {category}"
            tried = self.lake["certificates"].read(columns=["stratum"])["stratum"]
            if stratum in set(tried) or size > 1.05 * (self.approve - self.certified()):
                continue
            form = self.granting()
            assert form.fix(quality=GOOD, category=category, looks=3), form.notice
            self.judge()
            self.finish()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--approve", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    one = Review(given.root, given.approve, given.seed)
    one.judge()
    one.grant()
    print(f"{one.certified():,} approved; {one.granting().overview()}")


if __name__ == "__main__":
    main()
