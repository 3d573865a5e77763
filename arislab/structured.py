"""A task's SCHEMA: sent with the requests where the server supports it, and checked on every answer in any case.

One real answer that json_repair mends (its quotes are Python's)::

    {"strengths": ["worked 7 years as …"], "score": 0.88, "recommendation": "hire"}

A repaired text is always marked, and never written over the answer that came. This module does not know the lake or the
notebooks.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NoReturn

import polars as pl

from arislab import chat, cluster
from arislab.errors import BatchError, TaskError
from arislab.system import imports, spilled
from arislab.system.kinds import takes_any_frame

_NO = (400, 404, 405, 415, 422, 501)
"""Answers by which a server says that it does not take a field, or has no direct chat to ask."""


@dataclass(frozen=True)
class Shape:
    """What requests ask for beside their messages, and why; shown by the cell that decides it."""

    fields: dict[str, Any]
    """For ``batch.build_requests``: response_format, chat_template_kwargs, system_role; none that is empty."""
    why: str
    """Whether a response_format is sent, and why."""

    def __repr__(self) -> str:
        return self.why


def shape(
    schema: dict[str, Any] | None,
    *,
    server: Any,
    model: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    system_role: str = "",
) -> Shape:
    """Return how a model is asked for answers of a schema, in one way for all requests of a notebook.

    Args:
        schema: As in ``response_format``.
        server: As in ``response_format``.
        model: As in ``response_format``.
        chat_template_kwargs: What the model's chat template reads; empty: nothing.
        system_role: One of ``chat.SYSTEM_ROLES``.

    Raises:
        BatchError: As in ``response_format``.
        TaskError: As in ``response_format``.
        ParameterError: A setting that no server could mean.
    """
    form, why = response_format(schema, server=server, model=model)
    kwargs = chat_template_kwargs or {}
    return Shape(chat.fields(chat_template_kwargs=kwargs, system_role=system_role, response_format=form), why)


def response_format(schema: dict[str, Any] | None, *, server: Any, model: str) -> tuple[dict[str, Any] | None, str]:
    """Return (the request field that asks for answers of this schema, or None, and why).

    arislab's own server says whether its engine honours one; any other is asked once, for one token. The field is part
    of each request, and so of its custom_id: a failure that passes is therefore no answer, it stops here.

    Args:
        schema: JSON schema of the answer; null: free text.
        server: From ``batch.connect``.
        model: Name as the server knows it.

    Raises:
        BatchError: The server could not be asked.
        TaskError: The schema is no JSON schema.

    Source:
        https://platform.openai.com/docs/guides/structured-outputs
    """
    if schema is None:
        return None, "no response_format: the task has no SCHEMA"
    _validator(json.dumps(schema, sort_keys=True))
    if server.about.get("replayed"):
        form, why = server.about["replayed"]
        return form, why
    form, why = _decide(schema, server, model)
    server.decided(form, why)
    return form, why


def _decide(schema: dict[str, Any], server: Any, model: str) -> tuple[dict[str, Any] | None, str]:
    honours = server.about.get("response_format")
    if honours is False:
        return None, f"no response_format: the server's engine ({server.about.get('engine')}) does not honour one"
    forms = [_form(schema, strict=strict) for strict in ((True, False) if _is_strict(schema) else (False,))]
    if honours:
        return forms[0], "response_format sent: the server's engine honours it"
    refusal = ""
    for form in forms:
        refusal = _refusal(server, model, form)
        if not refusal:
            return (
                form,
                "response_format sent: the server took it for one token on trial; answers are checked all the same",
            )
    return None, f"no response_format: the server refused it on trial ({refusal})"


def _form(schema: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(schema.get("title", "answer")))[:64]
    return {"type": "json_schema", "json_schema": {"name": name or "answer", "schema": schema, "strict": strict}}


def _is_strict(schema: Any) -> bool:
    """Whether all objects are closed and all their fields required, as OpenAI's strict mode wants."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    fields = schema.get("properties")
    if schema.get("type") == "object" or isinstance(fields, dict):
        closed = schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(fields or ())
        return closed and all(map(_is_strict, (fields or {}).values()))
    return all(map(_is_strict, schema.values()))


def _refusal(server: Any, model: str, form: dict[str, Any]) -> str:
    """What the server says against the field; empty if it takes it."""
    import openai

    asked = [{"role": "user", "content": "Reply with one JSON object."}]

    def ask() -> str:
        try:
            server.client.chat.completions.create(model=model, messages=asked, max_tokens=1, response_format=form)
        except openai.APIStatusError as error:
            if error.status_code in _NO:
                return f"{error.status_code}: {str(error.message)[:200]}"
            raise
        return ""

    try:
        return str(server.patiently(ask))
    except openai.APIStatusError as error:
        raise BatchError(
            f"{server.base_url} answered {error.status_code} when asked whether it takes a response_format: "
            f"{str(error.message)[:200]}. Nothing was sent; run the cell again."
        ) from None


@takes_any_frame
def check(
    frame: pl.DataFrame, schema: dict[str, Any] | None, *, repair: bool = False, engine: str = ""
) -> pl.DataFrame:
    """Check every output against a schema, and on demand repair the JSON of those that break it.

    Reads: output (null: left alone).

    Adds: schema_error (String, how the output as it came breaks the schema; null = it does not, or there is no schema
    or output), repaired (Boolean, true where output is no longer the text that came). No other output is touched.

    Args:
        frame: One row per output.
        schema: JSON schema of the answer; null: free text, nothing is checked.
        repair: True: an output that breaks the schema gives way to what json_repair reads in it, if that fits the
            schema. It may guess: repaired rows are for looking at, before they are for training.
        engine: Who checks and repairs, as ``cluster.connect`` takes it; empty: this process.

    Raises:
        TaskError: The schema is no JSON schema, or refers to another document.
    """
    if schema is None:
        none = pl.lit(None, dtype=pl.String)
        return frame.with_columns(pl.col("output").cast(pl.String), schema_error=none, repaired=pl.lit(value=False))
    key = json.dumps(schema, sort_keys=True)
    _validator(key)
    checked = partial(_checked, key=key, repair=repair)
    blocks = (frame["output"].slice(start, _ROWS).to_list() for start in range(0, frame.height, _ROWS))
    spread = cluster.connect(engine)
    found = pl.DataFrame(schema={"schema_error": pl.String, "output": pl.String})
    parts = (
        pl.DataFrame(some, schema=found.schema)
        for some in (map(checked, blocks) if spread is None else spread.map(checked, blocks))
    )
    found = pl.concat([found, *parts], rechunk=True)  # one row per row of frame
    output = frame["output"].cast(pl.String)
    if found["output"].count():
        output = frame.select(pl.coalesce(found["output"], output)).to_series()
    return spilled.frame(frame.with_columns(output, found["schema_error"], repaired=found["output"].is_not_null()))


_ROWS = 5_000
"""Outputs that are checked at once."""


def _checked(texts: list[str | None], key: str, *, repair: bool) -> tuple[list[str | None], list[str | None]]:
    """How each text breaks a schema, and what its JSON is repaired to; null: it does not, it is not."""
    errors = [None if text is None else _error(text, key) for text in texts]
    mended = [
        _repaired(text, key) if repair and text is not None and error is not None else None
        for text, error in zip(texts, errors, strict=True)
    ]
    return errors, mended


def error(text: str, schema: dict[str, Any] | None) -> str | None:
    """Return how a text breaks a JSON schema; None if it does not, or there is none."""
    return None if schema is None else _error(text, json.dumps(schema, sort_keys=True))


def _error(text: str, key: str) -> str | None:
    """The first thing wrong with a text, or None."""
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"[:300]
    try:
        # the first by its place: jsonschema finds errors in the order of the schema's keys
        first = min(_validator(key).iter_errors(value), key=lambda e: (list(map(str, e.path)), e.message), default=None)
    except Unresolvable as error:
        raise TaskError(
            f"the task's SCHEMA refers to {error.ref!r}, which is not in it; write that part into the SCHEMA: nothing "
            "is fetched."
        ) from None
    except RecursionError:
        return "nested too deep"
    return None if first is None else f"{first.json_path}: {first.message}"[:300].encode("utf-8", "replace").decode()


def _repaired(text: str, key: str) -> str | None:
    """The JSON that json_repair reads in a text, if it is an object or a list that fits the schema."""
    import json_repair

    try:
        value = json_repair.loads(text)
        if not isinstance(value, dict | list) or not value:
            return None  # prose reads as an empty text
        fixed = json.dumps(value, ensure_ascii=False, allow_nan=False)
        fixed.encode()  # half a character cannot be stored
    except (ValueError, RecursionError):
        return None
    return fixed if fixed != text and _error(fixed, key) is None else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


@lru_cache(maxsize=16)  # by its text: a schema is a dict, which cannot be a key
def _validator(key: str) -> Any:
    """A validator for a schema, given as text; it fetches nothing."""
    from referencing import Registry

    jsonschema = imports.jsonschema()
    schema = json.loads(key)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise TaskError(
            f"the task's SCHEMA is no JSON schema: {error.json_path}: {error.message}; mend the task file."
        ) from None
    return kind(schema, registry=Registry())
