"""From examples to the answer that a client gets, killed at every place: the same commands again end as undisturbed.

$ARISLAB_KILLS says how often: 3 by default, all of a deployment; from 30 on the whole way, with training and gate.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import cycle, islice

import openai
import polars as pl
import pytest
from toys import CHECKOUT, Server, adapter, arislab, arislab_process, ended

from arislab import batch, models
from arislab.lake import Lake
from arislab.system import files, processes
from arislab.tiny.candidates import compose

FAMILY, ALIAS = "candidate-evaluation", "candidate-evaluation@champion"
KILLS = int(os.environ.get("ARISLAB_KILLS", "3"))
DYING = """
import json, os, re, signal, sys

said = os.environ["ARISLAB_TEST_DIES"]
place, seen, is_looking = json.loads(said), 0, False
pattern = re.compile(place["pattern"])

def is_ours(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return said.encode() in file.read()
    except OSError:
        return False

def kill(pid):
    if is_ours(pid):  # the parent of the command itself is the test
        os.kill(pid, signal.SIGKILL)

def hook(event, args):
    global seen, is_looking
    if event != place["event"] or is_looking or not pattern.search(" ".join(map(str, args))):
        return
    seen, is_looking = seen + 1, True
    if seen == place["n"] and not os.path.exists(place["mark"]):  # once, of all the processes
        os.close(os.open(place["mark"], os.O_CREAT | os.O_EXCL))
        is_child = is_ours(os.getppid())
        if place["whom"] == "all":
            for pid in {*map(int, filter(str.isdigit, os.listdir("/proc")))} - {os.getpid()}:
                kill(pid)
        if "parent" in place["whom"]:
            kill(os.getppid())
        if place["whom"] != "parent" or not is_child:
            kill(os.getpid())
    is_looking = False

sys.addaudithook(hook)
"""
"""Every Python of a command begins with this (``sitecustomize``): where a place comes up for the Nth time, it is killed
before what comes next; its parent, both, or all processes of the command."""
WHOM = ("self", "parent and self", "all", "parent")
TRAINING = (
    ("os.utime", r"attempt-\d", 3),  # after a step
    ("open", r"complete\.json.*\.part", 1),  # a checkpoint is written, and not whole
    ("os.rename", r"/step-\d", 2),  # it is whole, and has no name
    ("os.rename", r"models/candidate-evaluation-\w+-[0-9a-f]{12} ", 1),  # so is the adapter
    ("open", r"result\.json", 1),  # the adapter has its name, and nobody was told
    ("open", r"\.locks/finetuning_runs", 1),
    ("open", r"finetuning_runs/_delta_log", 1),  # after the commit
    ("open", r"\.locks/model_events", 1),
    ("at random", "", 0),
    ("open", r"model_events/_delta_log", 1),
    ("at random", "", 0),
)
JUDGING = (
    ("open", r"\.locks/training_data_raw", 1),
    ("open", r"\.locks/evaluations", 1),
    ("open", r"evaluations/_delta_log", 1),
    ("at random", "", 0),
    ("open", r"\.locks/model_events", 1),
    ("open", r"model_events/_delta_log", 1),
)
PROMOTING = (("open", r"\.locks/model_events", 1), ("open", r"model_events/_delta_log", 1))
DEPLOYING = (
    ("open", r"model_events/_delta_log", 1),  # the canary has passed
    ("open", r"\.locks/deployments", 1),  # clients have the version, and no row says so
    ("at random", "", 0),
    ("open", r"\.locks/training_data_raw", 1),  # the canary is answered
    ("open", r"\.locks/training_data_raw", 2),
    ("open", r"\.locks/model_events", 1),
    ("at random", "", 0),
    ("the server", "", 0),
    ("open", r"\.locks/training_data_raw", 3),  # answered through the alias
    ("open", r"deployments/_delta_log", 1),
    ("open", r"model_events/_delta_log", 2),  # the switch is noted, and not done
    ("open", r"model_events/_delta_log", 3),  # all is noted
    ("at random", "", 0),
)
FEW = ["-p", "n_canary", "4", "-p", "max_tokens", "24" if KILLS < 30 else "100"]
SHORT = ["-p", "max_tokens", "24"]
BRIEF = [*SHORT, "-p", "n_validation", "2", "-p", "learning_rate", "0.02", "-p", "batch_size", "4"]
TRAIN = ["run", "finetune", *BRIEF, "-p", "checkpoint_minutes", "0.0001"]


class Client(threading.Thread):
    """Asks the alias all the time, and keeps which version answered what."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.answers, self.problems, self.n_retried, self._ended = [], [], 0, threading.Event()
        self._client = openai.OpenAI(base_url=server.url, api_key=server.token, max_retries=0)

    def ask(self, model):
        asked = {"max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": "Title: Nurse"}]}
        answer = self._client.chat.completions.create(model=model, **asked)
        return answer.model, answer.choices[0].message.content

    def run(self):
        while not self._ended.wait(0.2):
            try:
                self.answers.append(self.ask(ALIAS))
            except openai.APIConnectionError:
                self.n_retried += 1
            except openai.APIError as error:
                self.problems.append(error)

    def stop(self):
        self._ended.set()
        self.join(60)
        self._client.close()


class Way:
    """A lab with a champion that a server serves, whom a client asks all the time."""

    def __init__(self, folder, patch):
        self.root, self.folder = folder / "lab", folder
        self.random, self.whom, self.n_kills = random.Random(7), cycle(WHOM), 0
        (folder / "dying").mkdir()
        (folder / "dying" / "sitecustomize.py").write_text(textwrap.dedent(DYING))
        self.lake = Lake(self.root / "data" / "lake", run_id="looked")
        self.registry = models.Registry(self.lake)
        made = Lake(self.lake.path, run_id="made")
        made["candidates"].append(compose(60 if KILLS < 30 else 400, seed=1))
        self.old = adapter(made, 1)
        options = {"model": "tiny", "adapters": self.lake.models, "workers": 1}
        self.server = Server(folder / "served", options).start()
        self.server.options["port"] = self.server.url.split(":")[2].removesuffix("/v1")
        patch.setenv("ARISLAB_API_KEY", self.server.token)
        self.deploy = ["run", "deploy", *FEW, "-p", "base_url", self.server.url]
        arislab("promote", self.old, root=self.root)
        arislab_process(*self.deploy, root=self.root)
        self.client = Client(self.server)
        self.client.start()

    def killed(self, words, places):
        """Run a command again and again, killed at one place after the other; then once to its end."""
        self.kill(words, places)
        arislab_process(*words, root=self.root)
        self.is_whole()

    def kill(self, words, places):
        """Run a command again and again, killed at one place after the other."""
        for event, pattern, n in places:
            self.n_kills += 1
            mark = self.folder / f"killed-{self.n_kills}"
            place = {"event": event, "pattern": pattern, "n": n, "whom": next(self.whom), "mark": str(mark)}
            dies = json.dumps(place)
            env = os.environ | {"ARISLAB_TEST_DIES": dies, "PYTHONPATH": str(self.folder / "dying")}
            command = [sys.executable, "-m", "arislab", *words, "--root", str(self.root)]
            with (self.folder / "printed").open("w+") as out:
                process = subprocess.Popen(command, cwd=CHECKOUT, stdout=out, stderr=out, env=env)
                if event in ("at random", "the server"):
                    time.sleep(self.random.uniform(2, 9))
                    self.at_random(process, dies, event=event, whom=place["whom"])
                code = process.wait(240)
                out.seek(0)
                printed = out.read()
            print(f"{self.n_kills}: {words[:2]} {event} {pattern} {n}, {place['whom']}: exit {code}")
            if event == "the server":
                assert code == 0 or "nothing answers at" in printed, printed  # it is away when the command begins
            elif event != "at random":
                assert mark.exists(), f"{place} never came: {printed}"
                assert code != 0
            self.is_whole()

    def at_random(self, process, dies, *, event, whom):
        if event == "the server":
            self.server.stop(signal.SIGKILL)
            self.server.start()
            return
        of = sorted(pid for pid, _ in processes.with_variable("ARISLAB_TEST_DIES", dies))
        children = [pid for pid in of if pid != process.pid]
        chosen = {"all": of, "parent": [process.pid], "self": children[-1:], "parent and self": of[:2]}[whom]
        for pid in chosen:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def is_whole(self):
        """Nothing that a reader could see is half; there is one champion, and each event stands there once."""
        for folder in self.lake.models.iterdir():
            if folder.is_dir() and not folder.name.startswith("."):
                digests = json.loads((folder / "manifest.json").read_text())["files"]
                assert {name: files.of_file(folder / name)["sha256"] for name in digests} == digests
                assert folder.name.endswith(digests["adapter_model.safetensors"][:12])
        events = self.registry.events()
        assert events["event_id"].n_unique() == events["seq"].n_unique() == events.height
        registered = events.filter(event="register")["version"]
        assert registered.n_unique() == registered.len()
        named = events.filter(pl.col("event").is_in(["alias", "rollback"]))
        assert named["previous"].to_list() == [None, *named["version"]][:-1], "each follows on the one before"
        gates = events.filter(event="gate").with_columns(of=pl.col("detail").str.json_path_match("$.evaluation_id"))
        assert (gates.group_by("version", "of").agg(pl.col("verdict").n_unique())["verdict"] == 1).all()
        listed = {model.id: model.root for model in self.server.client.models.list()}
        assert listed[ALIAS] in registered.to_list()

    def ends(self, new):
        """The new version is what the registry names, the server serves and the rows say; the client saw whole ones."""
        assert self.registry.named(FAMILY) == new
        for version in (self.old, new):
            self.registry.check(version)
        rows = self.lake["deployments"].read().sort("created_at")
        assert rows.select("version", "previous").row(0) == (self.old, None)
        assert set(rows.select("version", "previous").rows()[1:]) == {(new, self.old)}
        noted = self.registry.events().filter(event="deploy", version=new)
        assert 1 <= noted.height <= rows.height - 1, "each row was noted, but for those of which a kill came between"
        time.sleep(0.5)
        self.client.stop()
        assert self.client.problems == []
        said = {version: (version, self.server.client and self.alone(version)) for version in (self.old, new)}
        assert said[self.old][1] != said[new][1]
        seen = [version for version, _ in self.client.answers]
        assert set(self.client.answers) == set(said.values()), "each answer is one version's, and whole"
        n_old = seen.count(self.old)
        assert seen == [self.old] * n_old + [new] * (len(seen) - n_old), "nobody gets the one before again"
        print(f"{self.n_kills} kills; the client: {n_old} answers of the old version, {len(seen) - n_old} of the new")
        self.killed(["rollback"], [("open", r"model_events/_delta_log", 1)])
        assert self.registry.events().filter(event="rollback")["version"].to_list() == [self.old], "and not twice"
        assert {model.id: model.root for model in self.server.client.models.list()}[ALIAS] == self.old

    def serve(self):
        """What the server and the embedded one name by the alias."""
        with batch.connect("embedded", folder=self.lake.batches, adapters=self.lake.models) as embedded:
            return [
                {model.id: model.root for model in self.server.client.models.list()}[ALIAS],
                embedded.aliases[ALIAS],
            ]

    def alone(self, version):
        answer = self.server.client.chat.completions.create(
            model=version,
            max_tokens=12,
            temperature=0,
            messages=[{"role": "user", "content": "Title: Nurse"}],
        )
        return answer.choices[0].message.content

    def stop(self):
        self.client.stop()
        self.server.stop()
        left = {pid for pid, _ in processes.with_variable("PYTHONPATH", str(self.folder / "dying"))}
        assert all(ended(pid) for pid in left), "what was orphaned ends by itself"


@pytest.fixture
def way(tmp_path, monkeypatch):
    way = Way(tmp_path, monkeypatch)
    yield way
    way.stop()


@pytest.mark.slow
def test_a_promotion_and_a_deployment_that_are_killed_anywhere(way):
    new = adapter(Lake(way.lake.path, run_id="made-too"), 2)
    if KILLS > 3:
        way.killed(["promote", new], PROMOTING)
    else:
        arislab("promote", new, root=way.root)
    way.killed(way.deploy, islice(cycle(DEPLOYING), min(KILLS, len(DEPLOYING))))
    way.ends(new)


@pytest.mark.slow
def test_a_rollback_reaches_servers_whose_deployment_was_killed_once_they_had_switched(way):
    new = adapter(Lake(way.lake.path, run_id="made-too"), 2)
    arislab("promote", new, root=way.root)
    switched = [("open", r"\.locks/deployments", 1)]
    way.kill(way.deploy, switched)  # its newest row names the old version
    way.kill(["run", "deploy", *FEW], switched)  # the embedded server has no row
    assert way.lake["deployments"].read()["version"].to_list() == [way.old]
    assert way.serve() == [new, new]
    way.registry.roll_back(FAMILY)  # by a command that was killed before any server followed
    assert f"{ALIAS} is {way.old} since an earlier rollback" in arislab("rollback", root=way.root)
    assert way.serve() == [way.old, way.old]
    assert "nothing to go back to" in arislab("rollback", root=way.root, ok=False)


@pytest.mark.slow
@pytest.mark.skipif(KILLS < 30, reason="ARISLAB_KILLS is below 30")
def test_the_whole_way_that_is_killed_anywhere(way, tmp_path):
    for phase, more in (
        ("generate", ["-p", "n_candidates", "150", "-p", "n_dry_run", "4", "-p", "max_tokens", "96"]),
        ("curate", []),
        ("icl", ["-p", "budget", "60", "-p", "pool_size", "10", "-p", "n_search", "10", "-p", "n_holdout", "10"]),
    ):
        arislab_process("run", phase, *more, root=way.root)
    calm = tmp_path / "calm"
    shutil.copytree(way.root, calm)
    arislab_process(*TRAIN, root=calm)
    way.killed(TRAIN, TRAINING)
    columns = ["id", "arm", "adapter_sha256", "model_path", "train_loss"]
    lakes = (way.lake, Lake(calm / "data" / "lake"))
    killed, undisturbed = (lake["finetuning_runs"].read().select(columns).sort("id") for lake in lakes)
    assert killed.equals(undisturbed)
    left = [path.name for path in way.lake.models.iterdir() if path.name.startswith(".")]
    assert left == []
    (new,) = killed.filter(pl.col("model_path") != way.old, arm="curated")["model_path"]
    way.killed(["run", "evaluate", *SHORT, "-p", "n_test", "6"], JUDGING)
    way.killed(["promote", new, "--force", "--reason", "to see"], PROMOTING)
    way.killed(way.deploy, DEPLOYING)
    way.ends(new)
