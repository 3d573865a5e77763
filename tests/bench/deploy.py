"""How long it takes until clients get another version: promoted, canary, switched, answered; and to go back.

``python tests/bench/deploy.py ROOT [--rounds 5] [--n-canary 20] [--upstream URL]``, where ROOT holds a demo: its two
adapters take turns as champion of a server of its own (the in-process engine), the control by force. Prints seconds
(median and range): of promote to served (registry, canary of so many prompts, switch, first answer through the alias),
of the switch alone, and of a rollback to its first answer. ROOT is copied; what is asked of the server is asked anew in
each round. ``--upstream URL`` has a vLLM behind the server, which loads the version in each round and lets it go again.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toys import Server

from arislab import batch, curate, deploying, models
from arislab.lake import Lake
from arislab.task import load


def canary(lake, server, people, spec, version, again):
    """Ask the frozen prompts; the answers of the version are compared with those of its first canary."""
    same = {"temperature": 0.0, "max_tokens": 160, "logprobs": True, "top_logprobs": 5}
    asks = {"reference": (version, 0), "served": (version, again), "base": (server.model(), 0)}
    requests = {
        what: batch.build_requests(people, spec.to_messages, model=model, seed=seed, **same)
        for what, (model, seed) in asks.items()
    }
    raw = lake["training_data_raw"]
    ids = [name for frame in requests.values() for name in frame["custom_id"]]
    recorded = batch.Recorded(raw.read(columns=batch.RECORDED, where={"custom_id": ids}), write=raw.upsert)
    for each in requests.values():
        batch.answer(each, server=server, folder=lake.batches, recorded=recorded, task=spec.name)
    compared = deploying.canary(requests, raw.read(columns=deploying.ANSWER, where={"custom_id": ids}))
    deploying.require(deploying.verdict(compared, version), version)


def answered(server, alias, version):
    said = server.client.chat.completions.create(
        model=alias, messages=[{"role": "user", "content": "Title: Nurse"}], max_tokens=1
    )
    assert said.model == version


def main(root, rounds, n_canary, upstream):
    spec, seconds = load("candidate_evaluation"), {"promote to served": [], "switch": [], "rollback to answered": []}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root, Path(folder) / "root")
        lake = Lake(Path(folder) / "root" / "data" / "lake", run_id="bench")
        registry = models.Registry(lake)
        states = registry.states()
        champion = registry.named(spec.family)
        other = states.filter(pl.col("version") != champion)["version"][0]
        people = curate.spread(lake["candidates"].read(where={"split": "validation"}), n_canary)
        alias = models.alias_of(spec.family)
        options = {"upstream": upstream} if upstream else {"model": "tiny", "adapters": lake.models, "workers": 2}
        started = Server(Path(folder) / "server", options).start()
        try:
            os.environ["ARISLAB_API_KEY"] = started.token
            with batch.connect(started.url, folder=lake.batches) as server:
                for version in (champion, other):
                    server.load_adapter(version, lake.models / version)
                    canary(lake, server, people, spec, version, 1)
                server.switch(alias, champion, expected=None)
                for turn in range(rounds):
                    server.unload_adapter(other)  # where it can be
                    began = time.monotonic()
                    registry.promote(other, is_forced=True, reason="bench")
                    server.load_adapter(other, lake.models / other)
                    canary(lake, server, people, spec, other, turn + 2)
                    seconds["switch"].append(deploying.switch(server, alias, other, expected=champion)["seconds"])
                    answered(server, alias, other)
                    seconds["promote to served"].append(time.monotonic() - began)
                    began = time.monotonic()
                    back = registry.roll_back(spec.family)
                    deploying.switch(server, alias, back["version"], expected=other)
                    answered(server, alias, champion)
                    seconds["rollback to answered"].append(time.monotonic() - began)
                # its folder goes: a vLLM that then needs to load it once more dies, with all that it serves
                server.unload_adapter(other)
        finally:
            started.stop()
    for what, each in seconds.items():
        print(f"{what}: median {statistics.median(each):.3f} s, {min(each):.3f} to {max(each):.3f}, n {len(each)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-canary", type=int, default=20)
    parser.add_argument("--upstream", default="")
    given = parser.parse_args()
    main(given.root, given.rounds, given.n_canary, given.upstream)
