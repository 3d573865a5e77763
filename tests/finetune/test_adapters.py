"""An adapter is named by its content."""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from toys import TINY, TRAINER_KEY, nurses, plain

from arislab import finetune
from arislab.errors import TrainingError
from arislab.finetune import adapters

USER = {"role": "user", "content": "hi"}


def test_the_adapter_folder_holds_only_what_is_served_with_its_digests_and_no_secret_or_path(trained):
    folder, rows, _ = trained
    row = rows.row(0, named=True)
    adapter = Path(row["model_path"])
    kept = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "manifest.json",
        "tokenizer.json",
    }
    assert {path.name for path in adapter.iterdir()} == {*kept, "tokenizer_config.json"}
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in adapter.iterdir()} - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == digest
    assert manifest["files"]["adapter_model.safetensors"] == row["adapter_sha256"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"{row['base_model']}@sha256:{manifest['base']['sha256'][:12]}"
    assert config["target_modules"] == sorted(config["target_modules"])
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TRAINER_KEY.encode() not in content
            assert str(folder).encode() not in content or path.suffix == ".log"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_embedded_engine_serves_the_adapter_under_its_folder_name(trained):
    from arislab.tiny.decoder import Engine

    folder, rows, _ = trained
    served = Engine(TINY, adapters_dir=folder).models()
    assert {rows["base_model"][0], Path(rows["model_path"][0]).name} <= set(served)


@pytest.mark.slow
def test_training_again_reuses_the_folder_and_refuses_one_that_somebody_changed(trained, caplog):
    folder, _, other = trained
    again = {"base_model": "tiny", "folder": folder, "num_train_epochs": 1, "batch_size": 8, "seed": 1, "name": "other"}
    adapter = Path(other["model_path"][0])
    written = (adapter / "manifest.json").stat().st_mtime_ns
    sets = {"curated": pl.concat([nurses(range(8)), plain([USER], "")])}
    rows = finetune.train(sets, None, **again)
    roles = finetune.rows(rows, sets, nurses([20, 21]))
    assert dict(roles.group_by("role").len().iter_rows()) == {"trained": 8, "empty": 1, "held out": 2}
    assert roles.filter(role="empty")["id"].to_list() == plain([USER], "")["id"].to_list()
    assert set(roles["model_path"]) == set(rows["model_path"])
    assert rows["adapter_sha256"][0] == other["adapter_sha256"][0]
    assert (adapter / "manifest.json").stat().st_mtime_ns == written
    assert json.loads(rows["hyperparameters"][0])["rows"] == {"empty": 1, "ok": 8}
    assert "1 of 9 examples of set 'curated' are not trained" in caplog.text
    config = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(config.replace('"lora_alpha": 16', '"lora_alpha": 99'))
    with pytest.raises(TrainingError, match=r"adapter_config\.json differ from what was trained now"):
        finetune.train({"curated": nurses(range(8))}, None, **again)
    (adapter / "adapter_config.json").write_text(config)


class Model:
    """What a trainer has trained, in few bytes."""

    def save_pretrained(self, folder, **_):
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")


def test_a_disk_that_fails_is_not_taken_for_an_adapter_that_somebody_changed(tmp_path, monkeypatch):
    def full(part, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapters.files, "publish", full)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(unwrap_model=lambda model: model), model=Model())
    manifest = {"name": "toy", "arm": "a", "base": {"name": "tiny", "sha256": "0" * 64}}
    with pytest.raises(OSError, match="No space left on device"):
        adapters.write(trainer, TINY, tmp_path, manifest, tmp_path / "staging")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "staging")
    path, sha256 = adapters.write(trainer, TINY, tmp_path, manifest, tmp_path / "staging")
    assert (path.name, sha256) == (f"toy-a-{sha256[:12]}", hashlib.sha256(b"weights").hexdigest())
