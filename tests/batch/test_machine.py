"""The client against a server, both of which fail at any moment.

Hypothesis looks for an order of events that loses or doubles an answer.

Two clients share one folder; each may die at any control call (before it is sent, or after it was done and before the
answer is read) and around any write to the ledger or the folder, and the other may act in between, also after an hour
of silence. The server loses answers, refuses, denies what it did, cuts downloads, shuffles, doubles and contradicts
lines, expires, cancels, fails and forgets batches. A proxy in between repeats creates, so that one file has two
batches; what either answered is never asked again.

A request that has an answer is asked again only where nobody can know better:

* the server forgot the batch or its result file before the answer was fetched;
* at a server without idempotency keys, a create that is still on its way when the lease of its sender ends (not played
  here).

More examples, and others each time: ARISLAB_MACHINE_EXAMPLES=1000 pytest tests/batch/test_machine.py;
ARISLAB_MACHINE_SHRINK=1 makes a failure shorter.
"""

import os
import random
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from toys import good, people, serving

from arislab import batch
from arislab.batch import (
    AGAIN,
    ANSWERED,
    ASK,
    answers,
    canonical,
    connection,
    folder,
    job,
    kept,
    ledger,
    outcome,
    results,
    watch,
)
from arislab.batch.ledger import Ledger
from arislab.batch.protocol import parse, split
from arislab.errors import BatchError

N = 9
FRAME = batch.build_requests(people(N), lambda c: [{"role": "user", "content": c["profile"]["text"]}], model="m")
NAMES = FRAME["custom_id"].to_list()
HOUR_S = 3600.0


class DiedError(BaseException):
    """The process of a client is gone; no handler of the client may see it."""


class LookedError(BaseException):
    """A wait has looked once and is interrupted, as by Ctrl-C."""


class Fate:
    """Lets one thing happen at the n-th event of a client."""

    def __init__(self):
        self.left, self.happen, self.events = None, None, 0

    def at(self, n, happen):
        self.left, self.happen = n, happen

    def event(self, what):
        self.events += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                happen, self.left = self.happen, None
                if happen(what) is False:  # it cannot happen here; at the next event, then
                    self.left, self.happen = 0, happen


FATE = Fate()


class Watched(Ledger):
    """A ledger of the client that acts now, with an event around each commit."""

    owner_now, opened = "", []

    def __init__(self, folder):
        super().__init__(folder)
        self.owner, self.is_closed = Watched.owner_now, False
        self.db.execute("pragma synchronous = off")  # the machine's own disk does not fail here
        Watched.opened.append(self)

    def is_writing(self):
        return not self.is_closed and self.db.in_transaction

    def close(self):
        self.is_closed = True
        super().close()

    def note(self, row, **changes):
        FATE.event("commit")
        super().note(row, **changes)
        FATE.event("commit")

    def settle(self, row, statuses, **more):
        FATE.event("commit")
        done = super().settle(row, statuses, **more)
        FATE.event("commit")
        return done

    def claim(self, wanted, **more):
        FATE.event("commit")
        claimed = super().claim(wanted, **more)
        FATE.event("commit")
        return claimed


def keep(path, content, *, write=kept.keep):
    FATE.event("write")
    write(path, content)
    FATE.event("write")


class Client:
    """One process: a connection, and the job of its last submit."""

    born = 0

    def __init__(self, url, folder):
        Client.born += 1
        self.owner, self.folder, self.job = f"{Client.born}@here", folder, None
        self.server = batch.connect(url, folder=folder)
        wire = self.server.client._client
        send = wire.send

        def watched(request, **more):
            what = f"{request.method} {request.url.path.rsplit('/', 1)[-1]}"
            FATE.event(f"before {what}")
            response = send(request, **more)
            FATE.event(f"after {what}")
            return response

        wire.send = watched

    def close(self):
        self.server.client.close()
        for one in Watched.opened:
            if one.owner == self.owner:
                one.close()


WHO = st.sampled_from(["ann", "ben"])
SUBMIT = st.tuples(
    st.just("submit"),
    st.integers(0, 3),
    st.integers(3, N),
    st.sampled_from([(), ("lost",), ASK]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 4),
)
CALLS = st.one_of(SUBMIT, st.just(("wait",)), st.just(("wait",)), st.just(("cancel",)))
"""What makes calls, and can be cut off in the middle."""
ACTIONS = st.one_of(SUBMIT, st.just(("wait",)), st.tuples(st.just("collect"), st.booleans()))
EVENT = st.integers(0, 15)
ROUTES = ["upload", "create", "retrieve", "list", "files", "file", "content", "cancel"]
WAYS = ["refuse", "drop", "done-503", (503, "busy", ()), (429, "slow down", (("retry-after", "0"),)), (500, "oops", ())]
ENDS = [
    "completed",
    "completed",
    "completed",
    "expired",
    "cancelled",
    "token_limit_exceeded",
    "server_error",
    "invalid",
]
LINES = ["429", "500", "0", "400", "no choices", "none", "torn", "text", "length", "twice", "contradicted", "foreign"]
TROUBLE = st.one_of(
    st.tuples(st.just("call"), st.sampled_from(ROUTES), st.sampled_from(WAYS)),
    st.tuples(st.just("restart"), st.integers(1, 3)),
    st.tuples(st.just("cut"), st.lists(st.sampled_from(["line", 0.0, 0.3, 0.9]), min_size=1, max_size=4)),
    st.just(("wrong file",)),
    st.tuples(st.just("forget"), st.integers(0, 5), st.booleans()),
)
REPEATS = st.lists(st.sampled_from(["twice", "twice-drop"]), max_size=3)
"""Creates that a proxy repeats: the first ones."""
ENDING = st.none() | st.tuples(
    st.integers(0, 5),
    st.sampled_from(ENDS),
    st.sampled_from(["none", "line"]),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(LINES), max_size=6),
)
"""Which batch ends first, how, whether lines that are late have a line, the order of lines, and which go wrong."""
KINDS = Counter()
"""What happened over all examples; a rule that never does anything would prove nothing."""


class Machine(RuleBasedStateMachine):
    """Two clients on one folder, one server."""

    @initialize(is_ours=st.booleans(), is_bare=st.booleans(), repeats=REPEATS, first=SUBMIT)
    def begin(self, is_ours, is_bare, repeats, first):
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.serving = serving()
        self.faults, self.url = self.serving.__enter__()
        self.faults.is_ours, self.faults.is_without_metadata, self.faults.is_lazy = is_ours, is_bare, True
        self.faults.line, self.faults.watch, self.faults.content = self.line, self.watch, self.content
        self.faults.script["create"] = repeats
        self.clients, self.lake, self.seen = {}, {}, {}
        self.bad, self.cuts, self.wrong_file = {}, [], 0
        self.is_partial, self.clock, self.gone = None, 0.0, set()
        self.violations, self.told = [], []
        self.acting = None
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda descriptor: None)  # likewise, 45 times an example
        self.patch.setattr(job, "Ledger", Watched)
        for module in (answers, folder):
            self.patch.setattr(module, "Ledger", Watched)
        self.patch.setattr(kept, "keep", keep)
        self.patch.setattr(ledger, "_may_live", lambda owner: owner in {c.owner for c in self.clients.values()})
        still = {"strftime": time.strftime, "gmtime": time.gmtime, "strptime": time.strptime, "time": time.time}
        still |= {"monotonic": time.monotonic}
        self.patch.setattr(ledger, "time", SimpleNamespace(**still | {"time": lambda: time.time() + self.clock}))
        self.patch.setattr(connection, "time", SimpleNamespace(**still, sleep=lambda s: None))
        self.patch.setattr(job, "time", SimpleNamespace(**still, sleep=self.sleep))
        self.patch.setattr(results, "time", SimpleNamespace(**still, sleep=self.sleep))
        self.patch.setattr(watch, "time", SimpleNamespace(**still))
        self.act("ann", first)

    # -- the server ----------------------------------------------------------------------------------------------------

    def line(self, name, n):
        """The line of a request whose answer is computed for the n-th time."""
        if self.is_partial is not None:
            way, parts = self.is_partial
            if NAMES.index(name) % 3 in parts:
                late = {"code": "batch_expired", "message": "late"}
                return None if way == "none" else {"custom_id": name, "response": None, "error": late}
        kind = self.bad.get(name)
        KINDS[f"line {kind}"] += kind is not None
        fine = good(name, f"{name} {n}")
        if kind in ("429", "500", "0", "400"):
            return good(name, code=int(kind))
        if kind == "no choices":
            return {"custom_id": name, "response": {"status_code": 200, "body": {"choices": []}}, "error": None}
        if kind == "twice":
            return canonical(fine).encode() + b"\n" + canonical(fine).encode() + b"\n"
        if kind == "contradicted":
            other = good(name, f"{name} {n} otherwise")
            return canonical(fine).encode() + b"\n" + canonical(other).encode() + b"\n"
        if kind == "foreign":
            return canonical(fine).encode() + b"\n" + canonical(good("r-foreign", "r-foreign")).encode() + b"\n"
        return {
            None: fine,
            "none": None,
            "torn": b'{"custom_id": "' + name.encode() + b'", "resp\n',
            "text": {"custom_id": name, "response": None, "error": "it broke"},
            "length": good(name, f"{name} {n} cut", reason="length"),
        }[kind]

    def watch(self, made, names):
        """A batch is made: none of its requests may be on its way, or have an answer that can be had."""
        if self.faults.is_repeated:
            KINDS["twin"] += 1
            return
        for other in self.faults.batches.values():
            shared = set(names) & set(self.faults.names(other["input_file_id"]))
            if shared and other["status"] in ("in_progress", "cancelling"):
                self.violations.append(f"{shared} sent in {made['id']} while on their way in {other['id']}")
            if shared & self.answers(other).keys():
                self.violations.append(f"{shared} asked again in {made['id']}, answered in {other['id']}")

    def answers(self, made):
        """The answers in the result file of a batch."""
        _, content = self.faults.files.get(made.get("output_file_id"), (None, b""))
        outputs = {}
        for line in map(parse, split(content)):
            if line is not None and outcome(line, "")["status"] in ANSWERED:
                outputs.setdefault(line["custom_id"], outcome(line, "")["llm_output"])
        return outputs

    def content(self, data):
        """What is sent of a result file."""
        if self.wrong_file:
            self.wrong_file -= 1
            KINDS["wrong file"] += 1
            return data.replace(b'"r-', b'"x-')
        if self.cuts:
            KINDS["cut download"] += 1
            where = self.cuts.pop(0)
            lines = data.splitlines(keepends=True)
            return b"".join(lines[:-1]) if where == "line" else data[: int(len(data) * where)]
        return data

    def end(self, pick, end, way, seed, bad):
        """The server ends a batch, if one is open."""
        if not self.open():
            return
        self.bad = bad
        made = self.open()[pick % len(self.open())]
        if made["status"] == "cancelling":
            end = "cancelled"
        KINDS[f"end {end}"] += 1
        if end in ("expired", "cancelled"):
            self.is_partial = (way, set(random.Random(seed).sample(range(3), 2)))
        if end in ("completed", "expired", "cancelled"):
            self.faults.finish(made["id"], {"status": end})
            file, content = self.faults.files[made["output_file_id"]]
            lines = content.splitlines(keepends=True)
            random.Random(seed).shuffle(lines)
            self.faults.files[made["output_file_id"]] = (file, b"".join(lines))
        else:
            errors = {"object": "list", "data": [{"code": end, "message": end, "line": None}]}
            self.faults.finish(made["id"], {"status": "failed", "errors": errors})
        self.is_partial, self.bad = None, {}

    def open(self):
        return [b for b in self.faults.batches.values() if b["status"] in ("in_progress", "cancelling")]

    @rule(trouble=TROUBLE)
    def the_server_is_in_for_trouble(self, trouble):
        kind, *more = trouble
        if kind == "call":
            self.faults.script.setdefault(more[0], []).append(more[1])
        elif kind == "restart":
            for route in ROUTES:
                self.faults.script.setdefault(route, []).extend(["refuse"] * more[0])
        elif kind == "cut":
            self.cuts, self.faults.is_chunked = self.cuts + more[0], True
        elif kind == "forget" and self.faults.batches:
            KINDS["forgotten"] += 1
            made = list(self.faults.batches.values())[more[0] % len(self.faults.batches)]
            self.faults.files.pop(made["output_file_id"], None)
            if more[1]:
                del self.faults.batches[made["id"]]
        elif kind == "wrong file":
            self.wrong_file += 1

    # -- the clients ---------------------------------------------------------------------------------------------------

    def sleep(self, seconds):
        if seconds == 0:
            raise LookedError

    @rule(who=WHO, action=ACTIONS, first=ENDING)
    def step(self, who, action, first):
        if first:
            self.end(*first)
        self.act(who, action)

    @rule(who=WHO, action=CALLS, n=EVENT, first=ENDING)
    def die(self, who, action, n, first):
        if first:
            self.end(*first)

        def happen(what):
            KINDS[f"died {what}"] += 1
            raise DiedError

        FATE.at(n, happen)
        self.act(who, action)
        FATE.left = None

    @rule(who=WHO, action=CALLS, n=EVENT, between=CALLS, is_late=st.booleans(), first=ENDING)
    def the_other_acts_in_between(self, who, action, n, between, is_late, first):
        if first:
            self.end(*first)

        def happen(what):
            if any(one.owner == self.clients[who].owner and one.is_writing() for one in Watched.opened):
                return False  # the other would wait for the ledger
            if is_late and not (what == "before POST batches" and not self.faults.is_ours):
                self.clock += HOUR_S
            KINDS[f"between {what}"] += 1
            self.act({"ann": "ben", "ben": "ann"}[who], between)
            return True

        FATE.at(n, happen)
        self.act(who, action)
        FATE.left = None

    def bury(self, who):
        if who in self.clients:
            self.clients.pop(who).close()

    def act(self, who, action):
        if who not in self.clients:
            left, FATE.left = FATE.left, None
            self.clients[who] = Client(self.url, self.folder)
            FATE.left = left
        client, before = self.clients[who], Watched.owner_now
        Watched.owner_now = client.owner
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                self.perform(client, action)
            except BatchError as error:
                KINDS["told"] += 1
                self.told.append(str(error))
                self.violations += [str(error)] if "defect" in str(error) else []
            except LookedError:
                pass
            except DiedError:
                self.bury(who)
            finally:
                Watched.owner_now = before

    def perform(self, client, action):
        name, *more = action
        KINDS[name] += 1
        if name == "submit":
            first, n, resend, is_told, max_lines, window = more
            client.job = None
            client.job = batch.submit(
                FRAME[first : first + n],
                server=client.server,
                folder=self.folder,
                answered=self.lake if is_told else (),
                resend=resend,
                max_lines=max_lines,
                window=window,
            )
        elif client.job is None:
            return
        elif name == "wait":
            client.job.wait(poll_s=0)
        elif name == "cancel":
            client.job.cancel()
        else:
            self.take(client.job, is_written=more[0])

    def take(self, jobs, *, is_written):
        rows = jobs.collect()
        counts = jobs.account()
        assert rows.height + counts.get("unsent", 0) == sum(counts.values()) == jobs.requests.height
        assert Counter(rows["status"]) == Counter({k: v for k, v in counts.items() if k != "unsent"})
        assert set(rows["custom_id"]) <= set(jobs.requests["custom_id"])
        assert rows["custom_id"].is_unique().all()
        for name, status, text in rows.select("custom_id", "status", "llm_output").iter_rows():
            assert status in (*ANSWERED, *AGAIN, *ASK)
            if status in ANSWERED:
                assert text.startswith(f"{name} "), "an answer to another request"
                assert self.seen.setdefault(name, text) == text, "a second answer"
                KINDS["answers"] += 1
        if is_written:  # else the process ends before the lake has them
            self.lake |= {n: t for n, t in self.seen.items() if n in set(rows["custom_id"])}

    # -- what holds at all times ---------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_asked_twice(self):
        assert not self.__dict__.get("violations"), (self.violations, self.told[-3:])

    @invariant()
    def accounts_sum_to_n(self):
        for client in self.__dict__.get("clients", {}).values():
            if client.job is not None:
                assert sum(client.job.account().values()) == client.job.requests.height

    @invariant()
    def a_request_is_in_one_open_file_at_most(self):
        if not hasattr(self, "folder") or not (self.folder / "ledger.sqlite").is_file():
            return
        book = sqlite3.connect(self.folder / "ledger.sqlite")
        sql = f"select custom_id from lines join shards on id = shard_id where state in {ledger.OPEN}"
        sql += " group by 1 having count(*) > 1"
        doubled = book.execute(sql).fetchall()
        book.close()
        assert doubled == []

    # -- when all faults have ended ------------------------------------------------------------------------------------

    def teardown(self):
        if not hasattr(self, "faults"):
            return
        try:
            if not self.violations:
                self.calm_down()
        finally:
            FATE.left = None
            for who in list(self.clients):
                self.bury(who)
            self.patch.undo()
            self.serving.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    def calm_down(self):
        """Run the same cell again until every request has an answer."""
        for who in list(self.clients):
            self.bury(who)
        self.faults.script.clear()
        self.cuts.clear()
        self.wrong_file = 0
        for _ in range(12):
            self.act("ann", ("submit", 0, N, ASK, True, 3, 4))
            for _ in range(12):
                for made in self.open():
                    self.faults.finish(
                        made["id"], {"status": "cancelled" if made["status"] == "cancelling" else "completed"}
                    )
                self.act("ann", ("wait",))
                self.act("ann", ("collect", True))
            if len(self.lake) == N:
                break
            self.bury("ann")
        assert not self.violations, (self.violations, self.told[-3:])
        assert self.lake == self.seen
        assert set(self.lake) == set(NAMES), f"running again does not reach all: {self.told[-3:]}"


if "ARISLAB_MACHINE_EXAMPLES" not in os.environ:
    # else a name that changes in the class, of whose source hypothesis makes its seed, would draw other examples
    seed(0)(Machine)
Machine.TestCase.settings = settings(
    max_examples=int(os.environ.get("ARISLAB_MACHINE_EXAMPLES", "100")),
    stateful_step_count=25,
    deadline=None,
    derandomize="ARISLAB_MACHINE_EXAMPLES" not in os.environ,
    database=None,
    phases=list(Phase) if "ARISLAB_MACHINE_SHRINK" in os.environ else [Phase.generate],  # it takes minutes
    suppress_health_check=list(HealthCheck),
)
TestMachine = pytest.mark.slow(Machine.TestCase)


def test_the_machine_has_met_trouble_of_every_sort():
    if not KINDS:
        pytest.skip("the machine did not run before")

    def kinds(sort):
        return [kind for kind, n in KINDS.items() if n and kind.startswith(sort)]

    assert len(kinds("end ")) >= 5
    assert len(kinds("line ")) >= 6
    assert KINDS["twin"] >= 20
    assert kinds("died before POST")
    assert kinds("died after")
    assert kinds("died commit")
    assert len(kinds("between ")) >= 5
    assert min(KINDS[kind] for kind in ("submit", "wait", "cancel", "told", "forgotten", "answers")) >= 20
