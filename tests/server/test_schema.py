"""The server's OpenAPI document against the server: what schemathesis draws from it is answered as it says."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from toys import Server, line

from arislab.server.schema import ANSWERS

schemathesis.checks.load_all_checks()
NAMES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
CHECKS = [schemathesis.checks.CHECKS.get_one(name) for name in NAMES]
CAN_BE_WRONG = {"/v1/files", "/v1/batches", "/v1/batches/{batch_id}/partial", "/v1/chat/completions"}  # has parameters
SETTINGS = settings(
    max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", {"engine": "echo"}).start()
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    status, document = server.http("GET", "/openapi.json", Authorization=f"Bearer {server.token}")
    assert status == 200
    return document


@pytest.fixture(scope="module")
def known(server: Server) -> dict[str, str]:
    """Ids that exist, so that not every drawn path is a 404."""
    done = server.wait(server.submit([line("a"), line("b", n=2)]).id)
    return {"file_id": str(done.output_file_id), "batch_id": done.id, "model_id": "echo"}


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described == ANSWERS.keys()
    assert not any(
        "422" in operation["responses"] for methods in document["paths"].values() for operation in methods.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("ids", ["known", "drawn"])
def test_what_is_answered_is_what_the_document_says(
    server: Server, document: dict[str, Any], known: dict[str, str], ids: str, mode: schemathesis.GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    headers = {"Authorization": f"Bearer {server.token}"}
    base_url, statuses = server.url.removesuffix("/v1"), Counter()

    def check(case: schemathesis.Case) -> None:
        if ids == "known":
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
        response = case.call(base_url=base_url, headers=headers)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    for result in schema.get_all_operations():
        operation = result.ok()
        if ids == "known" and ("{" not in operation.path or operation.method.lower() == "delete"):
            continue
        if mode.is_negative and operation.path not in CAN_BE_WRONG:
            continue
        SETTINGS(given(case=operation.as_strategy(generation_mode=mode))(check))()
    assert statuses[200 if mode.is_positive else 400] >= 2, statuses
