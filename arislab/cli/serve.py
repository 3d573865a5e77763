"""``arislab serve``: the batch server."""

from pathlib import Path
from typing import Annotated

import typer

from arislab.errors import ParameterError


def serve(
    data: Annotated[Path, typer.Option("--data", help="Folder for files, spool and database; one server a folder.")],
    port: Annotated[int, typer.Option(help="0 = a free one.")] = 0,
    host: str = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token; made if absent (mode 0600).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Weights for the in-process engine: a folder, or tiny.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder of LoRA adapters to offer as models.")] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(help="URL of a chat server (…/v1); repeat it to balance several.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the in-process engine; default min(2, cores).")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="For tests: echo (answers with the question), faulty, or faulty:NAME=NUMBER,… (echo with faults)."
        ),
    ] = None,
    vllm: Annotated[str | None, typer.Option(help="Start a vLLM with this model: a folder, a name, or tiny.")] = None,
    vllm_python: Annotated[str | None, typer.Option(help="The Python that has vLLM; default this one.")] = None,
    vllm_args: Annotated[list[str] | None, typer.Argument(help="After --: options passed on to vLLM.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Have Ray actors ask the --upstream or run the --vllm: local, auto or HOST:PORT."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Actors of Ray; default one for each upstream, or one vLLM.")
    ] = None,
    max_window: Annotated[float, typer.Option(min=0.01, help="Hours after which a batch expires.")] = 24.0,
    quota_gb: Annotated[float | None, typer.Option(min=0.0, help="Disk for files and results, in 10^9 bytes.")] = None,
    max_answer_mb: Annotated[float, typer.Option(min=0.1, help="Longest answer of an upstream, in 2^20 bytes.")] = 32.0,
    media_host: Annotated[
        list[str] | None, typer.Option(help="Host that image and file URLs may name; default none; repeat it.")
    ] = None,
    parent_pid: Annotated[int | None, typer.Option(help="Stop when this process ends.")] = None,
    *,
    group_by_prefix: Annotated[
        bool, typer.Option("--group-by-prefix", help="Dispatch lines with the same prefix together.")
    ] = False,
) -> None:
    """Serve OpenAI Files + Batches over an in-process model or any chat server."""
    from arislab.server.app import serve as start
    from arislab.server.limits import Limits

    chosen = [x for x in (model, engine, upstream, vllm) if x]
    if len(chosen) > 1:
        raise ParameterError("give one of --model, --upstream, --vllm or --engine.")
    start(
        data,
        host=host,
        port=port,
        token_file=token_file,
        model=model or (None if chosen or ray else "tiny"),
        adapters=adapters,
        upstream=list(upstream or ()),
        workers=workers,
        parent_pid=parent_pid,
        engine=engine,
        vllm=vllm,
        vllm_python=vllm_python,
        vllm_args=vllm_args or [],
        ray=ray,
        replicas=replicas,
        limits=Limits(
            window_s=round(max_window * 3600),
            quota_bytes=None if quota_gb is None else round(quota_gb * 1e9),
            answer_bytes=round(max_answer_mb * (1 << 20)),
            media_hosts=frozenset(host.lower() for host in media_host or ()),
        ),
        group_by_prefix=group_by_prefix,
    )
