"""The loss and the gradients are those of TRL and PEFT."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import TINY, nurses

from arislab import finetune


def test_the_loss_at_trained_positions_is_the_loss_of_the_trainer(trained):
    _, rows, _ = trained
    log = Path(f"{rows['model_path'][0]}.log").read_text()
    ours, theirs = re.search(r"loss at trained positions (\S+), of the trainer (\S+)", log).groups()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


CHECK = """
import sys, json, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
base, adapter, rows = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
rows = json.load(open(rows))
with torch.no_grad():
    before = model(torch.tensor([rows[0]["input_ids"]])).logits
    model = PeftModel.from_pretrained(model, adapter).eval()
    changed = float((model(torch.tensor([rows[0]["input_ids"]])).logits - before).abs().max())
    total = n = 0
    for row in rows:
        trained = sum(label != -100 for label in row["labels"])
        total += float(model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss) * trained
        n += trained
loaded = {k.replace(".default", "") for k in model.state_dict() if "lora" in k}
every = loaded == set(load_file(adapter + "/adapter_model.safetensors"))

from arislab.finetune.on_cpu import speed_up
parameters = [p.requires_grad_() for n, p in model.named_parameters() if "lora" in n]
def gradients():
    model.zero_grad()
    ids, labels = torch.tensor([rows[0]["input_ids"]]), torch.tensor([rows[0]["labels"]])
    model(ids, labels=labels).loss.backward()
    return [p.grad.clone() for p in parameters]
slow = gradients()
speed_up(model)
replaced = sum("forward" in vars(module) for module in model.modules())
apart = max(float((x - y).norm() / x.norm()) for x, y in zip(slow, gradients(), strict=True))
print(json.dumps({"changed": changed, "loss": total / n, "every": every, "replaced": replaced, "apart": apart}))
"""


@pytest.fixture(scope="module")
def checked(trained, tokenizer, tmp_path_factory):
    """What peft and a plain forward pass find in the adapter, after its folder has moved."""
    _, rows, _ = trained
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(rows["model_path"][0], folder / "adapter")
    held_out = finetune.tokenize(nurses(range(100, 120)), tokenizer).select("input_ids", "labels")
    (folder / "rows.json").write_text(json.dumps(held_out.to_dicts()))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CHECK,
        str(TINY),
        str(folder / "adapter"),
        str(folder / "rows.json"),
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.mark.slow
def test_peft_loads_the_adapter_from_a_moved_folder_and_finds_the_eval_loss_row_by_row(trained, checked):
    _, rows, _ = trained
    assert checked["every"]
    assert checked["changed"] > 0.1
    assert checked["loss"] == pytest.approx(rows["eval_loss"][0], rel=1e-4)


@pytest.mark.slow
def test_the_faster_lora_layers_have_the_gradients_of_peft(checked):
    blocks = json.loads((TINY / "config.json").read_text())["num_hidden_layers"]
    assert checked["replaced"] == 7 * blocks  # q, k, v, o, gate, up, down
    assert checked["apart"] < 1e-4
