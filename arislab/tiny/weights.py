"""What a model folder holds: the tensors of a checkpoint, and LoRA adapters for them.

An adapter as PEFT saves it has ``base_model.model.<name>.lora_A.weight`` [r, in] and ``lora_B`` [out, r] for each
matrix ``<name>.weight`` [out, in] that it changes. Other kinds of adapters are refused.
"""

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arislab.errors import PrerequisiteError

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]
Pairs = dict[str, tuple["torch.Tensor", "torch.Tensor", float]]
"""Name of a matrix -> what an adapter adds to it: A [r, in], B [out, r] and the scale of B @ A; float32."""


MODEL_DIR = Path(__file__).parent / "model"
"""The embedded model."""


def folder_of(model: str | Path, *, option: str = "model") -> Path:
    """Return the folder of a model: a folder, ``"tiny"``, or a name in the local Hugging Face cache.

    Args:
        model: As somebody gave it.
        option: What it was given as, for the message.

    Raises:
        PrerequisiteError: There is no such model on this machine, or none that is read here; nothing is downloaded.
    """
    path = MODEL_DIR if str(model) == "tiny" else Path(model)
    is_name = not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(model))
    if is_name and importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(str(model), local_files_only=True))
    if (path / "config.json").is_file():
        return path
    gguf = path if path.suffix == ".gguf" else next(iter(sorted(path.glob("*.gguf"))), None)
    if gguf is not None and gguf.exists():
        raise PrerequisiteError(
            f"{option} {str(model)!r} holds weights as GGUF ({gguf.name}), which nothing here reads: give the folder "
            "with the safetensors that it was made of, or have llama.cpp serve it (llama-server -m FILE --port 8001) "
            "and give `arislab serve` its URL (--upstream http://127.0.0.1:8001/v1)."
        )
    if is_name:
        raise PrerequisiteError(
            f"{option} {str(model)!r} is neither a folder nor a model in the local Hugging Face cache, and nothing "
            f"is fetched from a hub here. Where there is a network: hf download {model} --local-dir FOLDER; then give "
            "the folder."
        )
    raise PrerequisiteError(
        f"{option} {str(model)!r}: no config.json in {str(path)!r}; give 'tiny', or a folder with config.json, "
        "*.safetensors and tokenizer.json."
    )


class Checkpoint(Weights):
    """The safetensors of a folder, one file or several.

    A tensor is read when it is asked for and not kept: so that a model is in memory once, in the form in which it is
    multiplied. It is a view of the file, which somebody may write anew: copy what is to stay.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise PrerequisiteError(
                f"{folder} has no safetensors; transformers writes them: "
                f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        self._files: dict[str, Path] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)
        self.n_bytes = sum(path.stat().st_size for path in paths)

    def __getitem__(self, name: str) -> "torch.Tensor":
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a model folder."""
    if not path.exists():
        raise PrerequisiteError(
            f"{path} is missing; a model folder holds config.json, safetensors, tokenizer.json and a chat template"
        )
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def read_adapter(folder: Path) -> Pairs:
    """Return what a LoRA folder adds to the matrices of its base model.

    Raises:
        PrerequisiteError: It is no plain LoRA.
    """
    from safetensors.torch import load_file

    return lora(read_json(folder / "adapter_config.json"), load_file(folder / "adapter_model.safetensors"))


def lora(config: Mapping[str, Any], adapter: Weights) -> Pairs:
    """Return what an adapter adds, by ``adapter_config.json`` and the tensors of ``adapter_model.safetensors``."""
    beyond = [name for name in ("use_dora", "modules_to_save", "alpha_pattern", "fan_in_fan_out") if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none" or beyond:
        raise PrerequisiteError(
            f"this adapter is not plain LoRA ({', '.join(beyond) or 'other type or biases'}); serve it with vLLM"
        )
    pairs: Pairs = {}
    left = dict(adapter)
    for name_a in [name for name in adapter if name.endswith(".lora_A.weight")]:
        a, b = left.pop(name_a).float(), left.pop(name_a.replace("lora_A", "lora_B")).float()
        rank = a.shape[0]
        scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        name = name_a.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        pairs[name] = (a, b, scale)
    if left:
        raise PrerequisiteError(
            f"the adapter holds {sorted(left)[0]!r}, which is not part of a plain LoRA; serve it with vLLM"
        )
    return pairs


def other_base(name: str) -> PrerequisiteError:
    """Return the error about a matrix that an adapter changes and the base model does not have."""
    return PrerequisiteError(
        f"the adapter changes {name!r}, which this base model lacks in that shape; it belongs to another base"
    )


def merge(weights: Weights, pairs: Pairs) -> Weights:
    """Return the weights with an adapter added to them."""
    merged = dict(weights)
    for name, (a, b, scale) in pairs.items():
        base = merged.get(name)
        if base is None or base.shape != (b.shape[0], a.shape[1]):
            raise other_base(name)
        merged[name] = base.float() + (b @ a) * scale
    return merged


def multiplies_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 as such.

    Where it does (AVX512_BF16 or AMX), products of 1 to 512 rows took 0.4 to 1.0 times as long as in float32; where it
    does not, torch converts at each product, which is slower than float32.
    """
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", known) is not None
