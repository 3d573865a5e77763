"""The account of every row of a root that rehearsal.py went through: numbers, and what does not close."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import polars as pl

from arislab import batch, curate, finetune, models
from arislab.lake import Lake
from arislab.review import certificates
from arislab.task import load

CALM = 100 * 128
"""Requests that are asked again by a server that nobody kills: whole chunks of the engine."""


class Account:
    """Numbers by name, and the names of the checks that failed."""

    def __init__(self, root, n_candidates):
        os.environ["ARISLAB_ROOT"] = str(root)
        self.root, self.n, self.lake = root, n_candidates, Lake(run_id="rehearsal")
        self.spec, self.numbers, self.open = load("candidate_evaluation"), {}, []
        self.people = self.lake["candidates"].read()
        self.asked = self.people.filter(split="train").sort("candidate_id").head(n_candidates)
        self.raw = self.lake["training_data_raw"].read()

    def check(self, what, *, holds):
        if not holds:
            self.open.append(what)

    def headline(self, phase):
        runs = [run for run in self.runs() if run["phase"] == phase and run["status"] == "ok"]
        return max(runs, key=lambda run: run["created_at"])["headline"]

    def arislab(self, *words):
        command = [sys.executable, "-m", "arislab", *words, "--root", str(self.root)]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.root, check=False)

    def runs(self):
        return json.loads(self.arislab("runs", "--json").stdout)

    def generated(self):
        """Each candidate has one answer, of its own or of another with the same question; none is there twice."""
        mine = self.raw.join(self.asked.select("candidate_id"), on="candidate_id", how="semi")
        people = map(_read, self.asked.iter_rows(named=True))
        texts = {json.dumps(self.spec.to_messages(one), sort_keys=True) for one in people}
        answered = {json.dumps(json.loads(text), sort_keys=True) for text in mine["messages"]}
        states = self.headline("generate")["account"]["states"]
        self.numbers["generate"] = {
            "composed": self.people.height,
            "splits": dict(self.people.group_by("split").len().sort("split").iter_rows()),
            "asked": self.asked.height,
            "states": {name: n for name, n in states.items() if n},
            "rows": mine.height,
            "lost": len(texts - answered),
            "doubled": mine.height - mine["custom_id"].n_unique(),
            "doubled_questions": mine.height - len(answered),
        }
        self.check("all asked for", holds=self.asked.height == self.n == sum(states.values()))
        self.check("no answer lost", holds=texts == answered and mine.height == len(texts))
        self.check("no answer doubled", holds=mine.height == mine["custom_id"].n_unique() == len(answered))
        by_status = dict(mine.group_by("status").len().iter_rows())
        self.check("statuses as told", holds=all(states.get(name, 0) == n for name, n in by_status.items()))
        self.n_rows = mine.height

    def curated(self):
        states = self.headline("curate")["account"]["states"]
        rows = self.lake["training_data_curated"].read()
        self.numbers["curate"] = {name: n for name, n in states.items() if n}
        self.check("curated sums up", holds=sum(states.values()) == self.n_rows)
        self.check("kept as told", holds=rows.height == states["kept"] == rows["custom_id"].n_unique())

    def trained(self):
        """What was approved is what was learned or held out, each once."""
        rows, reviews = self.lake["training_data_curated"].read(), self.lake["reviews"].read()
        known = self.lake["certificates"].read(), self.lake["certified_rows"].read()
        in_force = certificates.in_force(*known)
        every = curate.usable(rows, reviews, approve="certified", certified=in_force)
        single = curate.usable(rows, reviews, approve="reviewed")
        learned = self.lake["training_rows"].read()
        by_arm = learned.group_by("arm", "role").len().sort("arm", "role").rows()
        own = learned.filter(arm="curated")
        events = dict(known[0].group_by("event").len().sort("event").iter_rows())
        self.numbers["review"] = {
            "decisions": dict(reviews.group_by("decision").len().sort("decision").iter_rows()),
            "decisions_doubled": reviews.height - reviews["event_id"].n_unique(),
            "certificates": events,
            "approved": every.height,
            "one_by_one": single.height,
            "by_certificate": every.join(single, on="id", how="anti").height,
        }
        self.numbers["finetune"] = {f"{arm}, {role}": n for arm, role, n in by_arm}
        self.check("single approvals are among all", holds=set(single["id"]) <= set(every["id"]))
        self.check("approved is learned", holds=sorted(own["id"]) == sorted(every["id"]))
        self.check("one adapter an arm", holds=learned.n_unique(["arm", "model_path"]) == learned["arm"].n_unique())

    def judged(self):
        rows = self.lake["evaluations"].read()
        newest = rows.filter(pl.col("evaluation_id") == pl.col("evaluation_id").max())
        sizes = dict(newest.group_by("arm").agg(pl.col("candidate_id").n_unique()).sort("arm").iter_rows())
        tested = set(self.people.filter(split="test")["candidate_id"])
        headline = {name: each for name, each in self.headline("evaluate").items() if name != "account"}
        self.numbers["evaluate"] = {"rows_of_arms": sizes, "verdict": headline["verdict"], "reason": headline["reason"]}
        self.numbers["evaluate"]["of"] = {name: each for name, each in headline.items() if isinstance(each, dict)}
        self.check("each arm judged each row once", holds=newest.height == sum(sizes.values()))
        self.check("the same rows", holds=len(set(sizes.values())) == 1)
        self.check("only test rows", holds=set(newest["candidate_id"]) <= tested)

    def served(self):
        """One champion in the registry, deployed, answering through its alias; no folder that nothing knows."""
        registry = models.Registry(self.lake)
        events, champion = registry.events(), registry.named(self.spec.family)
        named = events.filter(pl.col("event").is_in(("alias", "rollback")), alias="champion").sort("seq")
        deployed = self.lake["deployments"].read().sort("created_at")
        known = set(events.filter(event="register")["version"])
        folders = {each.name for each in self.lake.models.iterdir() if each.is_dir() and not each.name.startswith(".")}
        alias = models.alias_of(self.spec.family)
        with batch.connect("embedded", folder=self.lake.batches, adapters=self.lake.models) as server:
            said = server.client.chat.completions.create(
                model=alias, messages=self.spec.to_messages(_read(self.asked.row(0, named=True))), max_tokens=160
            )
        base = finetune.base_fingerprint(finetune.resolve_model("tiny"))
        self.numbers["deploy"] = {
            "events": dict(events.group_by("event").len().sort("event").iter_rows()),
            "champion": champion,
            "promotions": named.height,
            "deployments": deployed.height,
            "answer": said.choices[0].message.content[:160],
        }
        self.check("one champion", holds=named.height > 0 and named["version"][-1] == champion)
        self.check("promoted once", holds=named.height == 1)
        self.check("deployed is the champion", holds=deployed["version"][-1] == champion == said.model)
        self.check("its folder is whole", holds=registry.check(champion, base=base)["version"] == champion)
        self.check("no half version", holds=folders == known)

    def verified(self):
        """The files and tables of each record that is ok, and the deployment run again."""
        runs = self.runs()
        names = [run["run_id"] for run in runs if run["status"] == "ok"]
        told = {name: self.arislab("verify", name, "--level", "0").returncode for name in names}
        again = self.arislab("verify", "deploy")
        self.numbers["verify"] = {"V0": told, "deploy V2": again.returncode, "said": again.stdout[-300:]}
        self.numbers["runs"] = Counter(f"{run['phase']} {run['status']}" for run in runs)
        self.check("records are true", holds=not any(told.values()) and again.returncode == 0)

    def calm(self):
        """What a server that nobody kills answers to the same whole chunks is what stands in the lake."""
        folder = self.lake.batches / "requests"
        sent = max(folder.glob("*.jsonl"), key=lambda path: (path.stat().st_size, path.name))
        lines = sent.read_bytes().split(b"\n")[:CALM]
        with tempfile.TemporaryDirectory() as place, batch.connect("embedded", folder=Path(place)) as server:
            client = server.client
            file = client.files.create(file=("calm.jsonl", b"\n".join(lines) + b"\n"), purpose="batch")
            made = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            while made.status not in ("completed", "failed", "expired"):
                time.sleep(1)
                made = client.batches.retrieve(made.id)
            text = client.files.content(made.output_file_id).text
        told = [json.loads(line) for line in text.split("\n") if line]
        calm = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in told}
        stands = dict(self.raw.select("custom_id", "llm_output").iter_rows())
        unlike = [name for name, output in calm.items() if stands.get(name) != output]
        self.numbers["calm"] = {"asked_again": len(lines), "answered": len(calm), "unlike": len(unlike)}
        self.check("killed or not, the same answers", holds=not unlike and len(calm) == len([x for x in lines if x]))

    def close(self):
        """All of it, with the names of what does not close."""
        for part in (self.generated, self.curated, self.trained, self.judged, self.served, self.verified, self.calm):
            part()
        return self.numbers | {"does_not_close": self.open}


def _read(row):
    return row | {"profile": json.loads(row["profile"])}
