"""The sets that a search must beat, and what may be said of rows that served before."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from arislab import batch, icl
from arislab.errors import ParameterError, PrerequisiteError

POOL = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d", "e"],
        "input": ["python kafka spark", "python kafka sql", "nurse ward night", "baker oven flour", "python spark sql"],
        "output": ["hire", "hire", "hire", "no", "no"],
        "quality_score": [0.9, 0.8, 0.7, None, 0.6],
    }
)
QUESTIONS = pl.DataFrame({"candidate_id": ["x", "y"], "text": ["A nurse on the ward", "kafka, SQL and python"]})


def test_the_nearest_example_stands_last():
    near = icl.nearest(POOL, QUESTIONS, k=2)
    assert near["candidate_id"].to_list() == ["x", "y"]
    assert near["example_ids"][0][-1] == "c"
    assert near["example_ids"][1][-1] == "b"


def test_every_arm_answers_every_row_and_random_sets_are_one_arm():
    cells = icl.reference_sets(POOL, QUESTIONS, chosen=("d", "a"), k=2, seed=1)
    arms = cells.group_by("arm", maintain_order=True).agg(
        pl.col("set_id").n_unique(), pl.col("candidate_id").n_unique()
    )
    assert arms["arm"].to_list() == ["zero-shot", "chosen", "top quality", "diverse", "random", "nearest"]
    assert arms["candidate_id"].to_list() == [2] * 6
    assert dict(arms.select("arm", "set_id").iter_rows())["random"] == 3
    sets = dict(cells.select("arm", "example_ids").iter_rows())
    assert sets["zero-shot"] == []
    assert sets["top quality"] == ["b", "a"]  # best last; without a score comes never
    assert sets["diverse"][-1] == "a"
    assert sets["diverse"][0] in ("c", "d")  # shares no word with a
    assert cells["set_id"].to_list() == [icl.set_id(ids) for ids in cells["example_ids"].to_list()]
    assert icl.reference_sets(POOL.reverse(), QUESTIONS, chosen=("d", "a"), k=2, seed=1).equals(cells)


def test_the_costly_arm_can_be_shorter_and_a_k_beyond_the_pool_is_refused():
    few = icl.reference_sets(POOL, QUESTIONS, chosen=("a",), k=1, n_nearest=1)
    assert few.filter(arm="nearest")["candidate_id"].to_list() == ["x"]
    with pytest.raises(ParameterError, match=r"k must be 1\.\.5"):
        icl.reference_sets(POOL, QUESTIONS, chosen=("a",), k=6)


# --- embeddings -------------------------------------------------------------------------------------------------------

WORDS = ["python", "kafka", "sql", "nurse", "ward", "oven", "baker"]


class Embeddings(BaseHTTPRequestHandler):
    """A server that embeds a text as its counts of seven words; its script decides what it does wrong."""

    calls: ClassVar[list[int]] = []
    script: ClassVar[list[str]] = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "chat", "object": "model", "created": 0, "owned_by": "x"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.calls.append(len(asked["input"]))
        does = self.script.pop(0) if self.script else ""
        vectors = [
            [float(text.lower().replace(",", "").split().count(word)) for word in WORDS] for text in asked["input"]
        ]
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
        if does == "busy":
            self.reply({"error": {"message": "busy"}}, 503)
        elif asked["model"] != "embedder":
            self.reply({"error": {"message": f"no model {asked['model']}"}}, 404)
        else:
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self.reply({"object": "list", "model": "embedder", "data": data[::-1][does == "short" :], "usage": usage})

    def reply(self, body, code=200):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def embedding_server(root):
    Embeddings.calls.clear()
    Embeddings.script.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Embeddings)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield batch.connect(f"http://127.0.0.1:{server.server_port}/v1", folder=root)
    server.shutdown()
    server.server_close()
    thread.join()


def test_with_an_embedding_model_the_nearest_are_found_by_meaning_too(embedding_server):
    embed = icl.embedder(embedding_server, model="embedder")
    Embeddings.script.append("busy")  # passes: asked again
    cells = icl.reference_sets(POOL, QUESTIONS, chosen=("a",), k=1, embed=embed)
    assert cells["arm"].unique(maintain_order=True).to_list()[-2:] == ["nearest", "nearest (embedding)"]
    near = cells.filter(arm="nearest (embedding)").select("candidate_id", "example_ids").rows()
    assert near == [("x", ["c"]), ("y", ["b"])]  # answers came in another order than asked: the index counts
    assert Embeddings.calls == [2, 2, 5]
    many = [f"python {i}" for i in range(600)]
    assert embed(many).shape == (600, 7)
    assert Embeddings.calls[-3:] == [256, 256, 88]
    assert (embed(["", None]) == 0).all()


def test_a_server_that_does_not_embed_is_one_clear_error(embedding_server):
    with pytest.raises(PrerequisiteError, match=r"refuses embeddings of 'chat' \(404.*leave embedding_model empty"):
        icl.embedder(embedding_server, model="chat")(["x"])
    Embeddings.script.append("short")
    with pytest.raises(PrerequisiteError, match="gave 1 vectors for 2 texts"):
        icl.embedder(embedding_server, model="embedder")(["x", "y"])


def test_winners_of_other_k_are_arms_of_their_own():
    cells = icl.reference_sets(POOL, QUESTIONS, chosen=("d", "a"), k=2, others={"best of k=1": ["c"]})
    assert cells["arm"].unique(maintain_order=True).to_list()[:3] == ["zero-shot", "chosen", "best of k=1"]
    assert cells.filter(arm="best of k=1")["example_ids"].to_list() == [["c"], ["c"]]


@pytest.mark.parametrize("embed", [None, lambda texts: np.ones((len(texts), 2))])
@pytest.mark.parametrize("n_sizes", [1, 2])
def test_the_number_of_requests_is_the_most_that_the_sets_take(embed, n_sizes):
    rows = pl.DataFrame({"candidate_id": [f"c{i}" for i in range(9)], "text": ["A nurse on the ward"] * 9})
    others = {"best of k=1": ["e"]} if n_sizes == 2 else None
    sets = icl.reference_sets(POOL, rows, chosen=("d", "a", "c"), k=3, seed=2, n_nearest=4, others=others, embed=embed)
    most = icl.n_report(9, n_sizes=n_sizes, n_nearest=4, by_meaning=embed is not None)
    assert sets.height == most
