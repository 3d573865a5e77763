"""The notebook of preferences, as a recorded run: an adapter is trained further, beside a control of chance."""

import json

import polars as pl
import pytest
from toys import adapter, arislab_process

from arislab import batch, finetune, models
from arislab.lake import Lake
from arislab.task import load
from arislab.tiny.candidates import compose

SHORT = ["-p", "sources", "judged", "-p", "n_validation", "3", "-p", "max_tokens", "16", "-p", "batch_size", "12"]


@pytest.fixture
def root(tmp_path):
    """A lake with an adapter, and with pairs of a good answer and one of another form."""
    lake, spec = Lake(tmp_path / "data" / "lake", run_id="made"), load("candidate_evaluation")
    lake["candidates"].append(compose(90, seed=1))
    adapter(lake, 1)
    people = lake["candidates"].read().filter(pl.col("split") != "test").sort("candidate_id")
    asked = batch.build_requests(people, spec.to_messages, model="m")
    answer = json.dumps({"strengths": ["worked 7 years"], "score": 0.5, "recommendation": "hire"})
    facts = {"task": pl.lit(spec.name), "source": pl.lit("judged"), "chosen": pl.lit(answer)}
    pairs = asked.select("candidate_id", "messages", custom_ids=pl.concat_list("custom_id")).with_columns(**facts)
    pairs = pairs.join(people.select("candidate_id", "split"), on="candidate_id")
    pairs = pairs.with_columns(pair_id=pl.format("p-{}", "candidate_id"), rejected=pl.lit("I would hire them."))
    lake["preferences"].append(pairs.unique("messages", keep="first", maintain_order=True))
    return tmp_path


@pytest.mark.slow
def test_an_adapter_is_trained_further_by_pairs_and_registered_beside_its_control(root):
    said = arislab_process("run", "prefer", *SHORT, root=root)
    lake = Lake(root / "data" / "lake", run_id="looked")
    trained = lake["finetuning_runs"].read().sort("arm")
    assert trained["arm"].to_list() == ["curated", "dpo", "dpo-control"]
    begun, tuned, control = trained.to_dicts()
    assert finetune.started_from(tuned, lake.models) == [begun["model_path"]]
    assert finetune.started_from(begun, lake.models) == []
    assert (tuned["method"], tuned["adapter_sha256"] != control["adapter_sha256"]) == ("dpo", True)
    states = models.Registry(lake).states()
    assert dict(states.select("arm", "state").rows()) == {
        "curated": "candidate",
        "dpo": "candidate",
        "dpo-control": "control",
    }
    rows = lake["training_rows"].read(where={"model_path": tuned["model_path"]})
    pairs = lake["preferences"].read()
    of = {"trained": "train", "held out": "validation"}
    for role, split in of.items():
        ids = pairs.filter(split=split)["custom_ids"].explode().to_list()
        assert sorted(rows.filter(role=role)["id"]) == sorted(ids), role
    assert finetune.with_control("dpo") == ("dpo", "dpo-control")
    assert "told apart" in said
    record = json.loads(arislab_process("runs", "--json", root=root))[0]
    assert record["headline"]["told_apart"]["dpo"] > record["headline"]["told_apart"]["dpo-control"]


@pytest.mark.slow
def test_too_few_preferences_are_refused_with_their_number(root):
    said = arislab_process("run", "prefer", "-p", "sources", "edit", root=root, ok=False)
    assert "0 of 0 preferences can be trained, and at least 30 are needed: 30 more" in said
