"""The folder of an adapter: named by its content, written whole, never changed."""

import json
import shutil
from pathlib import Path
from typing import Any

from arislab.errors import TrainingError
from arislab.system import files

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Served with an adapter, so that requests are rendered as it was trained, whatever becomes of the base's folder."""


def write(trainer: Any, base: Path, folder: Path, manifest: dict[str, Any], staging: Path) -> tuple[Path, str]:
    """Write the adapter into `staging`, then rename it to the name its content gives it.

    Returns:
        Its folder, and the sha256 of its weights.

    Raises:
        TrainingError: There is a folder of that name, and somebody changed what is in it.
    """
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staging, safe_serialization=True)
    config = json.loads((staging / "adapter_config.json").read_text())
    # an absolute path would break when the folder moves, and the wrong base of the same shape loads without a word
    config["base_model_name_or_path"] = f"{manifest['base']['name']}@sha256:{manifest['base']['sha256'][:12]}"
    # PEFT keeps them as sets: the same adapter must have the same bytes
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    (staging / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, staging / name)
    kept = {"adapter_config.json", "adapter_model.safetensors", *TOKENIZER_FILES}
    for path in staging.iterdir():  # a model card that points nowhere, pickled arguments
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (staging / "adapter_model.safetensors").chmod(0o644)  # a server may run as another user
    digests = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
    sha256 = digests["adapter_model.safetensors"]
    (staging / "manifest.json").write_text(json.dumps({**manifest, "files": digests}, indent=2, sort_keys=True) + "\n")
    final = folder / f"{manifest['name']}-{manifest['arm']}-{sha256[:12]}"
    try:
        files.publish(staging, final)
    except OSError:  # the name is taken, by the same content or by somebody's edit of it
        if not final.exists():
            raise
        changed = [
            name for name, digest in digests.items() if not (final / name).exists() or _sha256(final / name) != digest
        ]
        if changed:
            raise TrainingError(
                f"{final} exists and its {', '.join(changed)} differ from what was trained now; adapters never change, "
                "so move it away."
            ) from None
    return final, sha256


def _sha256(path: Path) -> str:
    return str(files.of_file(path)["sha256"])
