"""What is in an input file: where each line starts, and which rules it breaks."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ENDPOINT, Server, jsonl, line

from arislab.server.limits import Limits
from arislab.server.scan import scan_input


def test_limits_on_lines(echo: Server, tmp_path: Path) -> None:
    empty = echo.wait(echo.submit(b"\n\n").id)
    assert empty.errors is not None
    assert empty.errors.data is not None
    assert [error.code for error in empty.errors.data] == ["empty_file"]
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([line("a"), line("b", "x" * 1000), line("c"), line("d")]))
    errors = scan_input(path, ENDPOINT, Limits(requests=3, line_bytes=300)).errors
    assert [(error["line"], error["code"]) for error in errors] == [(2, "line_too_long"), (4, "too_many_requests")]


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=8), ends=st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]))
def test_every_line_is_found_again_by_its_offset(texts: list[str], ends: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    rows = [line(f"r-{i}", text.encode("utf-8", "replace").decode()) for i, text in enumerate(texts)]
    path.write_bytes(ends.join(json.dumps(row, ensure_ascii=i % 2 == 0).encode() for i, row in enumerate(rows)))
    scan = scan_input(path, ENDPOINT, Limits())
    assert not scan.errors
    with path.open("rb") as file:
        lines = [
            scan.request_at(file, i, {"id": "b", "created_at": 0, "endpoint": ENDPOINT})
            for i in range(len(scan.offsets))
        ]
    assert [(request.custom_id, request.body) for request in lines] == [(row["custom_id"], row["body"]) for row in rows]
