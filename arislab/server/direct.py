"""The routes that answer at once, by the engine that runs the batches: models, chat, completions and embeddings."""

import secrets
import time

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from arislab.server.database import Record
from arislab.server.engines import base
from arislab.server.guard import envelope, refuse
from arislab.server.limits import ForbiddenError, check_fields
from arislab.server.shown import model_object
from arislab.server.state import aliases_of, engine_of, limits_of
from arislab.system import json_text

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Record:
    """Names that a line may have in ``body.model``."""
    models = [model_object(name) for name in await engine_of(request).models()]
    return {
        "object": "list",
        "data": [*models, *(model_object(row["alias"], row["model"]) for row in aliases_of(request).rows())],
    }


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(request: Request, model_id: str) -> Record:
    """One of the models; names may have slashes."""
    engine = engine_of(request)
    if (root := aliases_of(request).resolve(model_id)) != model_id:
        return model_object(model_id, root)
    if not engine.takes_any_model and model_id not in await engine.models():
        message = f"no such model: {model_id!r}; GET /v1/models lists those that exist"
        raise refuse(404, message, param="model", code="model_not_found")
    return model_object(model_id)


@router.post("/v1/chat/completions")
async def chat_completion(request: Request) -> Response:
    """One answer now, by the engine that runs the batches."""
    return await _answer(request, "/v1/chat/completions")


@router.post("/v1/completions")
async def completion(request: Request) -> Response:
    """The continuation of a text, where the engine has completions."""
    return await _answer(request, "/v1/completions")


@router.post("/v1/embeddings")
async def embedding(request: Request) -> Response:
    """Vectors of texts, where the engine has embeddings."""
    return await _answer(request, "/v1/embeddings")


async def _answer(request: Request, endpoint: str) -> Response:
    engine = engine_of(request)
    if endpoint not in engine.endpoints:
        known = ", ".join(sorted(engine.endpoints))
        raise refuse(404, f"this server's engine has no {endpoint}; it has {known}", code="endpoint_not_found")
    try:
        body = json_text.loads_whole(await request.body())
    except orjson.JSONDecodeError as error:
        raise refuse(400, f"the body is not valid JSON: {error.msg}") from None
    if not isinstance(body, dict) or body.get("stream"):
        raise refuse(400, "the body must be a JSON object without 'stream': this server answers whole", param="stream")
    try:
        check_fields(body, limits_of(request))
    except ForbiddenError as error:
        raise refuse(400, str(error), param=error.param or None, code=error.code) from None
    results: list[base.Result] = []
    # a random custom_id: local engines draw their seed from it where the body has none
    model = aliases_of(request).resolve(str(body.get("model")))
    body |= {"model": model} if "model" in body else {}
    asked = base.Request(0, secrets.token_hex(16), body, int(time.time()), endpoint)
    await engine.gate.enter(model)
    try:
        await engine.run([asked], results.append)
    finally:
        engine.gate.leave(model)
    (result,) = results
    headers = {} if result.status == 200 else {"X-Should-Retry": "false"}  # it was tried here as often as may help
    if result.status == 0:
        failed = orjson.loads(result.body)
        return envelope(502, failed["message"], code=failed["code"], headers=headers)
    return Response(result.body, status_code=result.status, media_type="application/json", headers=headers)
