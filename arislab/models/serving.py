"""How a version is served by hand."""

from pathlib import Path


def serve_command(base_model: str, version: str, models: Path) -> str:
    """Return the vLLM line that serves a promoted adapter under its immutable name.

    Args:
        base_model: Weights that were adapted.
        version: Name of the adapter and of its folder.
        models: Folder of the adapters.
    """
    return f"vllm serve {base_model} --enable-lora --lora-modules {version}={models / version}"
