"""The OpenAPI document: FastAPI knows the parameters, this module adds what is answered and how it is refused."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from arislab.isolation import VERDICTS

Schema = dict[str, Any]

_INT, _TEXT, _NUMBER, _FLAG = ({"type": name} for name in ("integer", "string", "number", "boolean"))


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _page(name: str) -> Schema:
    ends = {"first_id": _or_null(_TEXT), "last_id": _or_null(_TEXT), "has_more": _FLAG}
    return _object(object={"const": "list"}, data=_list({"$ref": f"#/components/schemas/{name}"}), **ends)


_STAMPS = [
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
]
_STATUSES = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
_LINE_ERROR = _object(code=_TEXT, line=_or_null(_INT), message=_TEXT, param=_or_null(_TEXT))

_ALIAS = _object(alias=_TEXT, model=_TEXT, previous=_or_null(_TEXT), since=_INT)
SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT))),
    "Health": _object(status={"const": "ok"}),
    "File": _object(
        id=_TEXT,
        object={"const": "file"},
        bytes=_INT,
        created_at=_INT,
        expires_at=_INT,
        filename=_TEXT,
        purpose={"enum": ["batch", "batch_output"]},
        status={"const": "processed"},
    ),
    "Deleted": _object(id=_TEXT, object={"const": "file"}, deleted={"const": True}),
    "Batch": _object(
        id=_TEXT,
        object={"const": "batch"},
        endpoint=_TEXT,
        input_file_id=_TEXT,
        status={"enum": _STATUSES},
        output_file_id=_or_null(_TEXT),
        error_file_id=_or_null(_TEXT),
        created_at=_INT,
        expires_at=_INT,
        **{name: _or_null(_INT) for name in _STAMPS},
        model=_or_null(_TEXT),
        completion_window={"const": "24h"},
        errors=_or_null(_object(object={"const": "list"}, data=_list(_LINE_ERROR))),
        metadata=_or_null({"type": "object", "additionalProperties": _TEXT}),
        request_counts=_object(total=_INT, completed=_INT, failed=_INT),
        usage=_object(
            input_tokens=_INT,
            input_tokens_details=_object(cached_tokens=_INT),
            output_tokens=_INT,
            output_tokens_details=_object(reasoning_tokens=_INT),
            total_tokens=_INT,
        ),
    ),
    "Isolation": _object(
        verdict={"enum": list(VERDICTS)},
        models=_list(_TEXT),
        **dict.fromkeys(("n_prompts", "n_differ", "n_could_show", "n_turned", "n_control", "n_control_turned"), _INT),
        n_turned_alone=_INT,
        n_departed=_INT,
        alike=_list(_list(_TEXT)),
        example=_TEXT,
        problem=_TEXT,
        n_requests=_INT,
        seconds=_NUMBER,
        checked_at=_TEXT,
    ),
    "Live": _object(
        **dict.fromkeys(("total", "completed", "failed", "in_flight"), _INT),
        requests_per_s=_NUMBER,
        tokens_per_s=_NUMBER,
        eta_s=_or_null(_NUMBER),
    ),
    "Server": _object(
        server={"const": "arislab"},
        version=_TEXT,
        instance=_TEXT,
        engine=_TEXT,
        isolation={"const": True},
        response_format=_or_null(_FLAG),
        limits=_object(requests=_INT, file_bytes=_INT, line_bytes=_INT, window_s=_INT),
    ),
    "Model": _object(id=_TEXT, object={"const": "model"}, created=_INT, owned_by=_TEXT, root=_TEXT),
    "Alias": _ALIAS,
    "Aliases": _object(aliases=_list(_ALIAS), in_use=_list(_TEXT)),
    "Models": _object(object={"const": "list"}, data=_list({"$ref": "#/components/schemas/Model"})),
    "Files": _page("File"),
    "Batches": _page("Batch"),
    "Upload": {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"const": "batch"},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
        },
        "required": ["file", "purpose"],
    },
    "Chat": {
        "type": "object",
        "properties": {"model": _TEXT, "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
        "required": ["model", "messages"],
    },
    "Completion": {
        "type": "object",
        "properties": {"model": _TEXT, "prompt": {"anyOf": [_TEXT, _list({})]}},
        "required": ["model", "prompt"],
    },
    "Embedding": {
        "type": "object",
        "properties": {"model": _TEXT, "input": {"anyOf": [_TEXT, _list({})]}},
        "required": ["model", "input"],
    },
}

_JSON, _BYTES, _LINES = "application/json", "application/octet-stream", "application/x-ndjson"
ANSWERS: dict[tuple[str, str], tuple[str, Schema, str]] = {
    # what is answered with 200 (media type, schema), and with which statuses a request is refused
    ("get", "/health"): (_JSON, {"$ref": "Health"}, "403"),
    ("get", "/metrics"): ("text/plain", _TEXT, ""),
    ("get", "/v1/arislab"): (_JSON, {"$ref": "Server"}, ""),
    ("post", "/v1/arislab/isolation"): (_JSON, {"$ref": "Isolation"}, "400 408 413 500 507"),
    ("get", "/v1/arislab/aliases"): (_JSON, {"$ref": "Aliases"}, ""),
    ("post", "/v1/arislab/aliases"): (_JSON, {"$ref": "Alias"}, "400 404 408 409 413 500 507"),
    ("post", "/v1/load_lora_adapter"): ("text/plain", _TEXT, "400 408 413 502"),
    ("post", "/v1/unload_lora_adapter"): ("text/plain", _TEXT, "400 408 409 413 502"),
    ("get", "/v1/models"): (_JSON, {"$ref": "Models"}, ""),
    ("get", "/v1/models/{model_id}"): (_JSON, {"$ref": "Model"}, "404"),
    ("get", "/v1/files"): (_JSON, {"$ref": "Files"}, "400"),
    ("post", "/v1/files"): (_JSON, {"$ref": "File"}, "400 408 413 507"),
    ("get", "/v1/files/{file_id}"): (_JSON, {"$ref": "File"}, "404"),
    ("delete", "/v1/files/{file_id}"): (_JSON, {"$ref": "Deleted"}, "404 409"),
    ("get", "/v1/files/{file_id}/content"): (_BYTES, {"type": "string", "format": "binary"}, "404"),
    ("get", "/v1/batches"): (_JSON, {"$ref": "Batches"}, "400"),
    ("post", "/v1/batches"): (_JSON, {"$ref": "Batch"}, "400 408 409 413 507"),
    ("get", "/v1/batches/{batch_id}"): (_JSON, {"$ref": "Batch"}, "404"),
    ("post", "/v1/batches/{batch_id}/cancel"): (_JSON, {"$ref": "Batch"}, "404 409 507"),
    ("get", "/v1/batches/{batch_id}/live"): (_JSON, {"$ref": "Live"}, "404"),
    ("get", "/v1/batches/{batch_id}/partial"): (_LINES, {"type": "string", "format": "binary"}, "400 404 409"),
    **dict.fromkeys(
        [("post", f"/v1/{name}") for name in ("chat/completions", "completions", "embeddings")],
        (_JSON, {"type": "object"}, "400 404 408 413 429 500 502 503"),
    ),
}


class Api(FastAPI):
    """An application whose OpenAPI document says what is really answered."""

    def openapi(self) -> Schema:
        """The document; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> Schema:
    document = get_openapi(title="arislab batch server", version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **SCHEMAS}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            media_type, schema, statuses = ANSWERS[method, path]
            responses = {"200": {"description": "Done.", "content": {media_type: {"schema": _ref(schema)}}}}
            for status in ["401", "403", *statuses.split()]:
                error = {"content": {_JSON: {"schema": _ref({"$ref": "Error"})}}}
                responses[status] = {"description": "Refused.", **error}
            operation["responses"] = responses
    document["paths"]["/health"]["get"]["security"] = []
    for path, media_type, name in (
        ("/v1/files", "multipart/form-data", "Upload"),
        ("/v1/chat/completions", _JSON, "Chat"),
        ("/v1/completions", _JSON, "Completion"),
        ("/v1/embeddings", _JSON, "Embedding"),
    ):
        content = {media_type: {"schema": _ref({"$ref": name})}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    return document


def _ref(schema: Schema) -> Schema:
    return {"$ref": f"#/components/schemas/{schema['$ref']}"} if "$ref" in schema else schema
