"""A run in the words of OpenLineage."""

import json

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from toys import ran_well


def test_events_are_those_of_openlineage(root):
    record = ran_well(
        root,
        "import polars as pl\nfrom arislab.lake import Lake\nlake = Lake()\nlake['reviews'].read()\n"
        "person = {'candidate_id': ['a'], 'profile': '{}', 'group_id': 'g', 'split': 'train'}\n"
        "lake['candidates'].append(pl.DataFrame(person))",
    )
    lines = [json.loads(line) for line in (record.folder / "events.jsonl").read_text().splitlines()]
    assert [line["eventType"] for line in lines] == ["START", "COMPLETE"]
    for line in lines:  # the classes of the standard's own client check identifiers, times and URIs
        event = RunEvent(
            eventTime=line["eventTime"],
            producer=line["producer"],
            run=Run(**line["run"]),
            job=Job(**line["job"]),
            eventType=RunState(line["eventType"]),
            inputs=[InputDataset(**table) for table in line["inputs"]],
            outputs=[OutputDataset(**table) for table in line["outputs"]],
        )
        assert event.run.runId == lines[0]["run"]["runId"]
        assert line["schemaURL"].startswith("https://openlineage.io/spec/2-0-2/OpenLineage.json")
        facets = [
            f for part in (line["run"], line["job"], *line["inputs"], *line["outputs"]) for f in part["facets"].values()
        ]
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)
    (made,) = lines[1]["outputs"]
    assert (made["name"], made["outputFacets"]["outputStatistics"]["rowCount"]) == ("candidates", 1)
    assert made["facets"]["version"]["datasetVersion"] == "0"
