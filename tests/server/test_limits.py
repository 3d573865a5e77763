"""What a line may not hold: credentials, addresses, nesting without end."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from toys import Server, jsonl, line

from arislab.server.limits import ForbiddenError, Limits, check_fields


def media(kind: str, url: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: url}]}]}


def test_credentials_and_addresses_inside_lines_fail_the_batch(server: Server) -> None:
    rows = [line(f"r-{i}", **body) for i, (body, _, _) in enumerate(FORBIDDEN)]
    batch = server.wait(server.submit(rows).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    refused = [(error.line, error.code, error.param) for error in batch.errors.data]
    assert refused == [(number, code, param) for number, (_, code, param) in enumerate(FORBIDDEN, start=1)]
    assert "planted-value" not in json.dumps(batch.to_dict())


def test_a_direct_chat_keeps_the_same_rules(server: Server) -> None:
    for body, code, _ in FORBIDDEN:
        fields = {"model": "echo", "messages": [{"role": "user", "content": "x"}], **body}
        with pytest.raises(openai.BadRequestError) as caught:
            server.client.chat.completions.with_raw_response.create(
                model="echo", messages=fields["messages"], extra_body=body
            )
        assert caught.value.body["code"] == code  # type: ignore[index]


def test_what_only_looks_like_an_address_passes() -> None:
    limits = Limits(media_hosts=frozenset({"images.example"}))
    schema = {"type": "object", "properties": {"image_url": {"type": "string"}, "api_key": {"type": "string"}}}
    for body in (
        media("image_url", {"url": "data:image/png;base64,AAAA"}),
        media("image_url", {"url": "https://images.example/x.png"}),
        {"messages": [{"role": "user", "content": "see http://elsewhere.example, api_key=…"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    ):
        check_fields(body, limits)
    for url in (
        "https://images.example.evil.example/x",
        "https://images.example@evil.example/x",
        "ftp://images.example/x",
    ):
        with pytest.raises(ForbiddenError, match="data: URL"):
            check_fields(media("image_url", {"url": url}), limits)


def test_nesting_has_an_end(server: Server, tmp_path: Path) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return {"x": value}

    check_fields(nested(63), Limits())
    with pytest.raises(ForbiddenError, match="64 levels"):
        check_fields(nested(64), Limits())
    deep = line("r-0")
    raw = json.dumps(deep)[:-2].encode() + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"
    batch = server.wait(server.submit(raw).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["invalid_json_line"]


def test_a_line_beyond_8_mb_fails_the_batch_with_its_number(server: Server) -> None:
    batch = server.wait(server.submit(jsonl([line("a"), line("b", "x" * (8 << 20)), line("c")])).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [(2, "line_too_long")]


FORBIDDEN: list[tuple[dict[str, Any], str, str]] = [
    *[
        ({name: "planted-value"}, "forbidden_parameter", f"body.{name}")
        for name in ("api_base", "api_key", "base_url", "extra_headers", "extra_body", "litellm_params", "user_config")
    ],
    (media("image_url", {"url": "http://169.254.169.254/latest"}), "forbidden_url", "body.image_url"),
    (media("image_url", "https://elsewhere.example/x.png"), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "file:///etc/passwd"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": " HTTP://elsewhere.example/"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "//elsewhere.example/"}), "forbidden_url", "body.image_url"),
    (media("image_url", {"url": "http://[broken"}), "forbidden_url", "body.image_url"),
    (media("file_url", "https://elsewhere.example/x.pdf"), "forbidden_url", "body.file_url"),
    (media("audio_url", {"url": "https://elsewhere.example/x"}), "forbidden_url", "body.audio_url"),
    (media("video_url", {"url": "https://elsewhere.example/x"}), "forbidden_url", "body.video_url"),
]
