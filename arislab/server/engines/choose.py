"""Which engine the options of ``arislab serve`` ask for. It knows all engines; none knows it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from arislab.errors import PrerequisiteError
from arislab.server.engines.base import Engine
from arislab.server.engines.echo import EchoEngine
from arislab.server.limits import ANSWER_BYTES
from arislab.system import masking
from arislab.system.imports import require
from arislab.tiny.weights import folder_of


def make_engine(
    *,
    model: str | None,
    adapters: Path | None,
    upstream: Sequence[str],
    workers: int | None,
    engine: str | None = None,
    vllm: str | None = None,
    vllm_python: str | None = None,
    vllm_args: Sequence[str] = (),
    ray: str | None = None,
    replicas: int | None = None,
    data: Path = Path(),
    answer_bytes: int = ANSWER_BYTES,
) -> Engine:
    """Return the engine that the options of ``arislab serve`` ask for.

    Args:
        model: ``tiny`` (the embedded model), a folder with a checkpoint, or a name in the local Hugging Face cache.
        adapters: a folder whose sub-folders are LoRA adapters; their names are model names.
        upstream: base URLs of OpenAI-compatible chat servers, e.g. ``http://127.0.0.1:8000/v1``; excludes ``model``.
        workers: processes of the local model; default two, or one where there is one core.
        engine: ``echo``, ``echo:SECONDS``, ``faulty`` or ``faulty:SPEC`` (tests), or ``replay:FILE`` (recorded
            answers); excludes all others.
        vllm: the model of a vLLM that is started here; excludes ``model`` and ``upstream``.
        vllm_python: the interpreter that has vLLM.
        vllm_args: options that are passed on to vLLM.
        ray: where Ray is that has ``upstream`` or ``vllm`` asked by its actors: ``local``, ``auto`` or HOST:PORT.
        replicas: actors of Ray; default one for each upstream, or one vLLM.
        data: the server's folder; takes what vLLM prints, and what the faulty engine must remember.
        answer_bytes: the longest body of an answer of vLLM or an upstream.

    Raises:
        PrerequisiteError: both or no working choice.
    """
    if ray is None and replicas is not None:
        raise PrerequisiteError(f"--replicas {replicas} is for Ray only; say where that is with --ray")
    if vllm is not None:
        if upstream or (model or engine) is not None:
            raise PrerequisiteError(f"--vllm {vllm!r} excludes --model, --engine and --upstream; leave them out")
        if ray is not None:
            from arislab.server.engines.ray import over_vllm

            return over_vllm(
                vllm,
                address=ray,
                replicas=replicas,
                python=vllm_python,
                arguments=vllm_args,
                adapters=adapters,
                answer_bytes=answer_bytes,
            )
        from arislab.server.engines.vllm import VllmEngine

        return VllmEngine(
            vllm,
            python=vllm_python,
            arguments=vllm_args,
            adapters=adapters,
            log_file=data / "vllm.log",
            answer_bytes=answer_bytes,
        )
    if vllm_args or vllm_python is not None:
        raise PrerequisiteError(f"{vllm_python or vllm_args[0]!r} is for vLLM only; say which model with --vllm MODEL")
    if upstream:
        if (model or engine) is not None:
            raise PrerequisiteError(
                f"--model {model or engine!r} and --upstream {masking.masked(list(upstream))!r} exclude each other; "
                "leave one out"
            )
        if bad := [url for url in upstream if not url.startswith(("http://", "https://"))]:
            raise PrerequisiteError(
                f"--upstream must be a base URL like 'http://127.0.0.1:8000/v1', got {masking.masked(bad[0])!r}"
            )
        if ray is not None:
            from arislab.server.engines.ray import over_upstreams

            key = os.environ.get("ARISLAB_UPSTREAM_API_KEY")
            return over_upstreams(upstream, address=ray, replicas=replicas, key=key, answer_bytes=answer_bytes)
        from arislab.server.engines.upstream import UpstreamEngine

        return UpstreamEngine(upstream, answer_bytes=answer_bytes)
    if ray is not None:
        raise PrerequisiteError(f"--ray {ray!r} has nothing to place; add --upstream URL or --vllm MODEL")
    if engine is not None:
        return _toy(engine, data)
    folder = folder_of(model or "tiny", option="--model")
    require("a model in this process", 'pip install "arislab[train]"', "torch")
    from arislab.server.engines.local import LocalEngine

    return LocalEngine(folder, adapters=adapters, workers=workers or min(2, os.cpu_count() or 1))


def _toy(engine: str, data: Path) -> Engine:
    """The engine of ``--engine``."""
    name, _, option = engine.partition(":")
    if name == "faulty":
        from arislab.server.engines.faulty import FaultyEngine

        return FaultyEngine(option, tries_file=data / "faulty.tries")
    if name == "replay":
        from arislab.server.engines.replay import ReplayEngine

        return ReplayEngine(Path(option))
    if name != "echo" or not re.fullmatch(r"(\d+(\.\d*)?|\.\d+)?", option):
        raise PrerequisiteError(
            f"--engine must be echo, echo:SECONDS, faulty or faulty:SPEC, got {engine!r}; a model is named with "
            "--model or --vllm"
        )
    return EchoEngine(delay_s=float(option or 0))
