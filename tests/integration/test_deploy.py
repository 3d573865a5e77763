"""From a promotion to the answer that a client gets, and back: by the commands, over kills, at a server of its own."""

import polars as pl
import pytest
from toys import Server, adapter, arislab, arislab_process

from arislab import batch, deploying, finetune, models
from arislab.lake import Lake
from arislab.tiny.candidates import compose

pytestmark = pytest.mark.slow  # each goes on where the one before it ended

FAMILY, ALIAS = "candidate-evaluation", "candidate-evaluation@champion"
FEW = ["-p", "n_canary", "4", "-p", "max_tokens", "24"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A lake with candidates and two versions, the first of which is promoted."""
    place = tmp_path_factory.mktemp("lab")
    lake = Lake(place / "data" / "lake", run_id="made")
    lake["candidates"].append(compose(60, seed=1))
    adapter(lake, 1)
    adapter(lake, 2)
    return place


def lake_of(root):
    return Lake(root / "data" / "lake", run_id="looked")


def versions(root):
    states = models.Registry(lake_of(root)).events().filter(event="register")
    return states["version"].to_list()


def served(root):
    """What the embedded server lists for the alias, and answers through it."""
    lake = lake_of(root)
    with batch.connect("embedded", folder=lake.batches, adapters=lake.models) as server:
        asked = [{"role": "user", "content": "Title: Nurse"}]
        answer = server.client.chat.completions.create(model=ALIAS, messages=asked, max_tokens=8)
        return server.aliases[ALIAS], answer.model


def test_nothing_is_deployed_before_something_is_promoted(root):
    said = arislab_process("run", "deploy", *FEW, root=root, ok=False)
    assert "names no version: nothing was promoted" in said
    assert lake_of(root)["deployments"].rows == 0


def test_promoted_deployed_and_rolled_back_by_the_commands(root):
    one, two = versions(root)
    assert f"{ALIAS} is {one} now (before: none)" in arislab("promote", one, "--reason", "it is better", root=root)
    arislab_process("run", "deploy", *FEW, root=root)
    assert served(root) == (one, one)
    arislab("promote", two[:-3], "--by", "grace", root=root)
    assert served(root) == (one, one), "servers follow when they are deployed to"
    arislab_process("run", "deploy", *FEW, root=root)
    assert served(root) == (two, two)
    said = arislab("models", root=root)
    assert f"champion   {two}" in said
    assert f"served     {ALIAS} is {two} at embedded" in said
    said = arislab("rollback", "--reason", "complaints", root=root)
    assert f"{ALIAS} is {one} again (it was {two})" in said
    assert f"embedded: {ALIAS} is {one} after" in said
    assert served(root) == (one, one)
    history = arislab("models", "history", root=root)
    assert f"alias {two} as {ALIAS} (before: {one}) by grace" in history
    assert f"rollback {one} as {ALIAS} (before: {two})" in history
    assert "complaints" in history
    rows = lake_of(root)["deployments"].read().sort("created_at")
    assert rows.select("action", "version", "previous").rows() == [
        ("deploy", one, None),
        ("deploy", two, one),
        ("rollback", one, two),
    ]
    raw = lake_of(root)["training_data_raw"].read(where={"model": ALIAS}).sort("created_at")
    assert raw["model_returned"].to_list() == [one, two], "every row says which version answered"
    assert raw["custom_id"].n_unique() == 2, "an answer of the champion before is none of this one"
    assert "files in" in arislab("models", "show", ALIAS, root=root)
    card = arislab("models", "show", ALIAS, "--card", root=root)
    assert card.startswith("---\nlibrary_name: peft\n")
    assert f"# {one}\n" in card
    assert "Its gate said **promote**" in card
    assert "adapter_sha256" not in arislab("models", "diff", one, two, root=root)


def test_requests_of_phase_1_are_named_by_the_version_behind_the_alias(root):
    arislab_process(
        "run", "generate", "-p", "model", ALIAS, "-p", "n_candidates", "20", "-p", "n_dry_run", "4", root=root
    )
    (one, _), raw = versions(root), lake_of(root)["training_data_raw"].read()
    runs = raw.filter(pl.col("run_id").str.contains("generate"))
    assert runs["model"].unique().to_list() == [one]
    assert runs["model_returned"].drop_nulls().unique().to_list() == [one]


def test_what_may_not_be_promoted_is_refused_with_one_message(root):
    one, _ = versions(root)
    third = adapter(lake_of(root), 3)
    path = lake_of(root).models / third / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    said = arislab("promote", third, root=root, ok=False)
    assert "is another file than was trained" in said
    assert said.count("arislab:") == 1
    assert "needs a reason" in arislab("promote", third, "--force", root=root, ok=False)
    assert "is retired" in arislab("retire", third, "--reason", "damaged", root=root)
    assert "promote another one first" in arislab("retire", one, "--reason", "old", root=root, ok=False)
    assert "did you mean" in arislab("models", "show", "candidate-evaluation-curatd", root=root, ok=False)


def test_a_server_of_its_own_gets_the_version_by_its_url(root, tmp_path, monkeypatch):
    one, two = versions(root)[:2]
    current = models.Registry(lake_of(root)).named(FAMILY)
    options = {"model": "tiny", "adapters": lake_of(root).models, "workers": 1}
    server = Server(tmp_path / "data", options).start()
    monkeypatch.setenv("ARISLAB_API_KEY", server.token)
    try:
        arislab_process("run", "deploy", *FEW, "-p", "base_url", server.url, root=root)
        assert {m.id: m.root for m in server.client.models.list()}[ALIAS] == current
        other = one if current == two else two
        arislab("promote", other, root=root)
        arislab_process("run", "deploy", *FEW, "-p", "base_url", server.url, root=root)
        said = arislab("rollback", root=root)
        assert f"{server.url}: {ALIAS} is {current} after" in said
        assert {m.id: m.root for m in server.client.models.list()}[ALIAS] == current
    finally:
        server.stop()
    arislab("promote", other, root=root)
    said = arislab("rollback", root=root, ok=False)
    assert f"{server.url}: NOT switched" in said
    assert "when it is back" in said
    assert models.Registry(lake_of(root)).named(FAMILY) == current


@pytest.fixture
def three(tmp_path):
    """A lake with three versions, promoted one after the other and deployed nowhere; their names."""
    lake = Lake(tmp_path / "data" / "lake", run_id="made")
    names = [adapter(lake, seed) for seed in (1, 2, 3)]
    for name in names:
        arislab("promote", name, root=tmp_path)
    return lake, names


def switched(lake, version):
    with batch.connect("embedded", folder=lake.batches, adapters=lake.models) as server:
        server.switch(ALIAS, version, expected=None)


def deployed(lake, version, where="embedded"):
    own = {"alias": ALIAS, "run_id": "made", "action": "deploy", "endpoint": where}
    lake["deployments"].append(deploying.row(FAMILY, version, **own))


def test_a_server_that_is_gone_for_good_holds_up_no_further_rollback(three, tmp_path):
    (lake, (one, two, last)), gone = three, "http://127.0.0.1:9/v1"
    switched(lake, last)
    deployed(lake, last)
    deployed(lake, last, gone)
    for back in (two, one):
        said = arislab("rollback", root=tmp_path, ok=False)
        assert f"{ALIAS} is {back} again" in said
        assert f"embedded: {ALIAS} is {back} after" in said
        assert f"{gone}: NOT switched" in said
        assert models.Registry(lake).named(FAMILY) == back
        assert served(tmp_path) == (back, back)
    assert "nothing to go back to" in arislab("rollback", root=tmp_path, ok=False)


def test_a_rollback_reaches_a_server_that_was_to_switch_and_has_no_row(three, tmp_path):
    lake, (_, two, last) = three
    switched(lake, last)
    models.Registry(lake).note(last, "switch", alias="champion", detail={"endpoint": "embedded"})
    said = arislab("rollback", root=tmp_path)
    assert f"embedded: {ALIAS} is {two} after" in said
    assert served(tmp_path) == (two, two)
    rows = lake["deployments"].read()
    assert rows.select("endpoint", "action", "version", "previous").rows() == [("embedded", "rollback", two, last)]


def test_a_server_that_was_never_switched_is_left_alone_and_holds_up_no_rollback(three, tmp_path):
    lake, (one, two, last) = three
    models.Registry(lake).note(last, "switch", alias="champion", detail={"endpoint": "embedded"})
    for back in (two, one):
        assert arislab("rollback", root=tmp_path).splitlines()[0].startswith(f"{ALIAS} is {back} again")
    assert lake["deployments"].rows == 0


def test_a_wrong_base_of_the_same_shape_is_refused(root, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    source, wrong = finetune.resolve_model("tiny"), tmp_path / "wrong"
    wrong.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (wrong / path.name).write_bytes(path.read_bytes())
    with safe_open(source / "model.safetensors", "np") as weights:
        names = weights.keys()
        tensors = {name: weights.get_tensor(name) * 1.01 for name in names}
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    said = arislab_process("run", "deploy", *FEW, "-p", "base_model", str(wrong), root=root, ok=False)
    assert "of the same shape it would load" in said
