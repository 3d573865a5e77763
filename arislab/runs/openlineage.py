"""A run in the words of OpenLineage 2-0-2: what schedulers and catalogues of others read.

One line of ``events.jsonl`` is one RunEvent: START when the run is made, then COMPLETE, FAIL or ABORT. This module does
not write files.
Source: https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

import uuid
from collections.abc import Mapping
from typing import Any

_PRODUCER = "urn:arislab"
_SPEC = "https://openlineage.io/spec"
_STATISTICS = f"{_SPEC}/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet"
_TYPES = {"ok": "COMPLETE", "interrupted": "ABORT", "created": "START", "running": "RUNNING"}


def event(record: Mapping[str, Any], *, at: str, lake: str) -> dict[str, Any]:
    """Return the RunEvent of a record in its present state.

    Args:
        record: The fields of run.json.
        at: Time of the event, ISO 8601 with an offset.
        lake: Where the tables lie: the namespace of the datasets.
    """
    run: dict[str, Any] = {
        "arislab_run": _facet(
            f"{_PRODUCER}:run",
            run_id=record["run_id"],
            run_key=record.get("run_key"),
            status=record["status"],
            parameters=record["parameters"],
            commit=record.get("code", {}).get("commit"),
        )
    }
    if record.get("reason"):
        run["errorMessage"] = _facet(
            f"{_SPEC}/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
            message=record["reason"],
            programmingLanguage="python",
        )
    job = {"namespace": "arislab", "name": record["phase"], "facets": {}}
    notebook = record.get("notebook", {})
    if notebook.get("sha256"):
        job["facets"] = {"arislab_notebook": _facet(f"{_PRODUCER}:notebook", **notebook)}
    return {
        "eventType": _TYPES.get(record["status"], "FAIL"),
        "eventTime": at,
        "producer": _PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        # made from the name: every event of a run has the same id, with nothing kept in between
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, record["run_id"])), "facets": run},
        "job": job,
        "inputs": [_dataset(lake, name, state) for name, state in record.get("tables_read", {}).items()],
        "outputs": [
            _dataset(lake, name, state)
            | {"outputFacets": {"outputStatistics": _facet(_STATISTICS, rowCount=state["rows"])}}
            for name, state in record.get("tables_written", {}).items()
        ],
    }


def _dataset(lake: str, name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "arislab_digest": _facet(f"{_PRODUCER}:digest", algorithm="sha256 of columns", digest=state.get("digest"))
    }
    if state.get("version") is not None:
        facets["version"] = _facet(
            f"{_SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
            datasetVersion=str(state["version"]),
        )
    return {"namespace": lake, "name": name, "facets": facets}


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    return {"_producer": _PRODUCER, "_schemaURL": schema, **fields}
