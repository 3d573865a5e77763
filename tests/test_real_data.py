"""Real outputs of real models, read from the shared folder beside the checkout.

Nothing of it is copied into the project.
"""

import json

import polars as pl
import pytest
from toys import arislab

from arislab import stats
from arislab.lake import Lake

# A stranger's task: mathematics questions with a checkable answer. No reference is used: two models that agree are
# likely right.
SUMS = '''
"""Task: solve a word problem in Python, and print the number. Judged without the reference."""

import re

SYSTEM = ""

def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]

def final(output):
    printed = re.findall(r"```output\\n(.*?)```", output, re.DOTALL)
    numbers = re.findall(r"-?[\\d,]*\\.?\\d+", (printed or [output])[-1])
    return round(float(numbers[-1].replace(",", "")), 2) if numbers else None

def agrees(output, others):
    mine = final(output)
    return None if not others or mine is None else sum(final(o) == mine for o in others) / len(others)

def ran(output):
    return "Error" not in output and "```output" in output

def plausible(output):
    number = final(output)
    return number is not None and number >= 0 and number == int(number)

SCORERS = {"agrees": agrees, "ran": ran, "plausible": plausible}
WEIGHTS = {"agrees": 0.7, "ran": 0.15, "plausible": 0.15}
GOLD = [
    {
        "output": "```python\\nprint(2+2)\\n```\\n```output\\n4\\n```\\nThe answer is $4$.",
        "others": ["```output\\n4\\n```"],
    }
]
BAD = [{"output": "no idea", "others": ["```output\\n4\\n```"]}]
'''


@pytest.mark.slow
def test_gsm8k_quality_against_correctness(shared, tmp_path):
    assert len([line for line in SUMS.splitlines() if line.strip()]) <= 30
    task, rows = tmp_path / "sums.py", tmp_path / "tora.jsonl"
    task.write_text(SUMS)
    recorded = [
        json.loads(line) | {"model": path.stem}
        for path in sorted((shared / "tora_gsm8k").glob("*.jsonl"))
        for line in path.read_text().split("\n")
        if line
    ]
    fields = ("question", "code", "gt", "pred", "model")
    rows.write_text(
        "\n".join(json.dumps({k: (v[0] if isinstance(v := r[k], list) and v else v) for k in fields}) for r in recorded)
    )
    printed = arislab(
        "import",
        rows,
        "--as",
        "outputs",
        "--task",
        task,
        "--input",
        "question",
        "--output",
        "code",
        "--model",
        "model",
        "--keep",
        "gt,pred",
        root=tmp_path,
    )
    assert printed.startswith("2,638 outputs = ")
    assert "samples of 1,319 candidates" in printed
    arislab("run", "curate", "-p", "task", str(task), root=tmp_path)
    lake = Lake(tmp_path / "data" / "lake")
    account = json.loads(arislab("runs", "--json", root=tmp_path))[0]["headline"]["account"]
    assert sum(account["states"].values()) == account["total"] == 2638
    frame = lake.sql(
        "select s.quality, r.metadata from training_data_scored s join training_data_raw r using (custom_id)"
    )
    facts = [json.loads(m) for m in frame["metadata"]]
    right = [str(f["gt"]).replace(",", "") == str(f["pred"]).replace(",", "") for f in facts]
    area, top, base = (
        stats.auc(frame["quality"], right),
        stats.precision_at(frame["quality"], right, 0.2),
        sum(right) / len(right),
    )
    print(f"ToRA on GSM8K: n={len(right):,}, base rate {base:.3f}, AUC {area}, precision in the top 20 % {top}")
    assert area.low > 0.6
    assert top.low > base


@pytest.mark.slow
def test_alpaca_eval_kept_outputs_win_more_often(shared, tmp_path):
    file = shared / "alpaca_eval" / "outputs_dev.parquet"
    columns = ["--input", "instruction", "--output", "output", "--model", "generator", "--keep", "win_prob,dataset"]
    printed = arislab("import", file, "--as", "outputs", "--task", "instruction_following", *columns, root=tmp_path)
    assert printed.startswith("58,763 outputs = ")
    arislab("run", "curate", "-p", "task", "instruction_following", root=tmp_path)
    run = json.loads(arislab("runs", "--json", root=tmp_path))[0]
    account = run["headline"]["account"]
    assert sum(account["states"].values()) == account["total"] == 58_763
    lake = Lake(tmp_path / "data" / "lake")
    labelled = lake.sql(
        "select r.custom_id, cast(r.metadata->>'win_prob' as double) w, c.id is not null kept from training_data_raw "
        "r left join training_data_curated c on c.id = r.custom_id"
    ).filter(pl.col("w").is_not_null())
    kept, everything = stats.mean_interval(labelled.filter("kept")["w"]), stats.mean_interval(labelled["w"])
    print(
        f"AlpacaEval: {account}, win_prob kept {kept}, all labelled {everything}, tied at the cut "
        f"{run['headline']['n_tied_at_cut']}"
    )
    assert labelled.height == 17_708
    assert kept.low > everything.high
