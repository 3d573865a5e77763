"""Which weights are trained, and on what."""

import hashlib
import os
from pathlib import Path
from typing import Any

from arislab.errors import TrainingError
from arislab.system import files
from arislab.system.imports import require
from arislab.tiny.weights import MODEL_DIR, folder_of


def compute_device() -> tuple[str, str]:
    """Return where training will run, and why: ``("cpu", "no CUDA device is visible to torch 2.13.0")``."""
    require("fine-tuning", 'pip install "arislab[train]"', "torch")
    import torch

    if torch.cuda.is_available():
        gb = torch.cuda.get_device_properties(0).total_memory / 2**30
        return "cuda", f"{torch.cuda.get_device_name(0)}, {gb:.0f} GiB"
    return "cpu", f"no CUDA device is visible to torch {torch.__version__}"


def visible_gpus() -> list[str]:
    """Return the GPUs that training may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(at) for at in range(n)])[:n]


def resolve_model(base_model: str | Path) -> Path:
    """Return the folder of a base model: a folder, ``"tiny"``, or a name in the local Hugging Face cache.

    Raises:
        PrerequisiteError: There is no such model on this machine; nothing is downloaded.
    """
    return folder_of(base_model, option="base_model")


def load_tokenizer(tokenizer: Any) -> Any:
    """Return a transformers tokenizer: of a model folder, or the one given."""
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    require("tokenize", 'pip install "arislab[train]"', "transformers", "torch")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(tokenizer))


def base_fingerprint(base: Path) -> dict[str, str]:
    """Return name and digest of a base model: the digest of its weights file, or of the list of their digests."""
    digests = [
        files.of_file(path)["sha256"] for path in sorted(base.glob("*.safetensors")) or sorted(base.glob("*.bin"))
    ]
    if not digests:
        raise TrainingError(
            f"{base} holds no weights; a base model has *.safetensors (or *.bin) beside its config.json."
        )
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    shipped = base.resolve() == MODEL_DIR.resolve()
    # a snapshot folder of the Hugging Face cache is models--<owner>--<name>/snapshots/<commit>
    cached = (
        base.parent.parent.name.removeprefix("models--").replace("--", "/") if base.parent.name == "snapshots" else None
    )
    return {"name": f"arislab-tiny-{sha256[:8]}" if shipped else cached or base.resolve().name, "sha256": sha256}
