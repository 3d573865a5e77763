"""The routes by which versions of a model come and go: adapters that are loaded, and aliases that name one."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from arislab.server.database import Record
from arislab.server.engines.upstream import UpstreamEngine
from arislab.server.guard import refuse
from arislab.server.state import aliases_of, engine_of, runner_of

router = APIRouter()
_NAME = r"^[^@\s]{1,255}@[^@\s]{1,255}$"


class Switch(BaseModel):
    """The body of ``POST /v1/arislab/aliases``."""

    alias: Annotated[str, Field(pattern=_NAME)]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    expected: str | None = None
    """What the alias names until now; left out: whatever it is; null: nothing."""


@router.get("/v1/arislab/aliases")
async def list_aliases(request: Request) -> Record:
    """Aliases and the models that they name; ``in_use`` are models that requests and batches still ask."""
    return {"aliases": aliases_of(request).rows(), "in_use": sorted(runner_of(request).in_use())}


@router.post("/v1/arislab/aliases")
async def switch_alias(request: Request, asked: Switch) -> Record:
    """Let an alias name another model; refused where somebody else was first, or there is no such model."""
    aliases, engine = aliases_of(request), engine_of(request)
    models = await engine.models()
    if asked.alias in models:
        raise refuse(400, f"{asked.alias!r} is the name of a model; an alias needs another one", param="alias")
    if asked.model not in models and not engine.takes_any_model:
        message = f"no such model: {asked.model!r}; GET /v1/models lists those that exist"
        raise refuse(404, message, param="model", code="model_not_found")
    # what it is to be is fine too: a switch may be asked for again after its answer was lost
    expected = {asked.expected, asked.model} if "expected" in asked.model_fields_set else None
    made = await asyncio.to_thread(aliases.switch, asked.alias, asked.model, expected)
    if made is None:
        raise refuse(
            409,
            f"{asked.alias!r} names {aliases.resolve(asked.alias)!r} now, not {asked.expected!r}: somebody else "
            "switched it; look at what it names, and ask again",
            param="expected",
            code="alias_moved",
        )
    return made


class Adapter(BaseModel):
    """The body of ``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM takes it."""

    lora_name: Annotated[str, Field(min_length=1, max_length=512)]
    lora_path: str = ""


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
async def load_adapter(request: Request, adapter: Adapter) -> str:
    """Have an adapter offered as a model: by every upstream, or by an engine that finds it in its folder."""
    engine = engine_of(request)
    if not isinstance(engine, UpstreamEngine):
        if adapter.lora_name not in await engine.models():
            raise refuse(
                400,
                f"this server offers the adapters that lie in its folder, and {adapter.lora_name!r} does not; put its "
                "folder there, or start the server with --adapters",
                param="lora_name",
            )
    else:
        async with runner_of(request).watch.loading():
            problems = await engine.load_adapter(adapter.lora_name, adapter.lora_path)
        if problems:
            raise refuse(502, "; ".join(problems), param="lora_name", code="adapter_not_loaded")
    return f"adapter {adapter.lora_name} is offered"


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_adapter(request: Request, adapter: Adapter) -> str:
    """Have the upstreams let an adapter go that no alias names and nobody asks any more."""
    engine, name = engine_of(request), adapter.lora_name
    if not isinstance(engine, UpstreamEngine):
        raise refuse(400, "this server offers what lies in its folder of adapters; move the folder away instead")
    if name in runner_of(request).in_use() or name in [row["model"] for row in aliases_of(request).rows()]:
        raise refuse(409, f"{name!r} is in use, or an alias names it", param="lora_name", code="adapter_in_use")
    if problems := await engine.unload_adapter(name):
        raise refuse(502, "; ".join(problems), param="lora_name")
    return f"adapter {name} is gone"
