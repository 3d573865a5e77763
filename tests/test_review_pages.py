"""The review panel as a page, without Jupyter: `arislab review` in a real browser, for several people at once.

Screenshots go to $ARISLAB_SCREENSHOTS, else to the test's folder.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, here, need, play

from arislab import review
from arislab.lake import Lake
from arislab.review import decisions, seats
from arislab.task import load

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TASK = load("candidate_evaluation")
HOSTILE = '<img src="x" onerror="window.pwned = 1"><script>window.pwned = 1</script>'
ADA, GRACE = f"Ada {HOSTILE}", "Grace & Söhne"
OUTPUT = {
    "strengths": ["worked 7 years as a registered nurse"], "concerns": [HOSTILE], "summary": "A seasoned nurse.",
    "score": 0.8125, "recommendation": "hire",
}  # fmt: skip
PROFILE = {"title": "Nurse", "years": 7, "skills": ["Triage"], "role": "Manager", "needs": ["Triage"], "min_years": 4}


@pytest.fixture(autouse=True, scope="module")
def promised():
    is_there = all([CHROMIUM, find_spec("voila"), find_spec("playwright")])
    need("browser", present=is_there, why="Chromium, Voila or playwright is missing")


def filled(root, n=6):
    """A lake of curated rows, scored, whose texts attack."""
    rows = pl.DataFrame(
        [
            {
                "id": f"r-{i:040x}", "custom_id": f"r-{i:040x}", "candidate_id": f"s1-{i:06d}", "task": TASK.name,
                "input": f"Number {i}\n{HOSTILE}", "messages": json.dumps([{"role": "user", "content": f"Number {i}"}]),
                "output": json.dumps(OUTPUT), "quality_score": 0.734375, "needs_review": True, "approved": False,
                "metadata": json.dumps({"title": HOSTILE}), "split": "train",
            }
            for i in range(n)
        ]
    )  # fmt: skip
    lake = Lake(root / "data" / "lake")
    lake["training_data_curated"].append(rows)
    people = rows.select("candidate_id", "split", group_id="candidate_id", profile=pl.lit(json.dumps(PROFILE)))
    lake["candidates"].append(people.with_columns(category=pl.lit("Care"), use_case=pl.lit("general")))
    names = ("custom_id", "candidate_id", "task")
    scored = rows.select(*names, quality="quality_score", score_grounded="quality_score")
    lake["training_data_scored"].append(scored.with_columns(scorer_version=pl.lit(TASK.version)))
    raw = rows.select(*names, "input", "messages", llm_output="output")
    lake["training_data_raw"].append(raw.with_columns(status=pl.lit("ok"), model=pl.lit("secret-7b")))
    return lake


@dataclass
class Served:
    """A running ``arislab review``."""

    process: object
    printed: str
    log: Path

    def url(self, name):
        [url] = [line.rpartition(" ")[2] for line in self.printed.splitlines() if line.startswith(name)]
        return url


def children(pid):
    """Processes that a process started and that live."""
    stats = [folder / "stat" for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    fields = [(path, path.read_text().rpartition(")")[2].split()) for path in stats if path.exists()]
    return {int(path.parent.name) for path, (state, parent, *_) in fields if int(parent) == pid and state != "Z"}


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex((seats.HOST, port)) == 0


@contextmanager
def served(root, *words, home, cwd=CHECKOUT):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "ARISLAB_RUN"))}
    environment |= {"JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTER_CONFIG_DIR": str(home / "config")}
    environment |= {"IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "arislab", "review", "--root", str(root), *words]
    log = home / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            printed = ""
            while "Ctrl-C" not in printed and (line := process.stdout.readline()):
                printed += line
            assert "Ctrl-C" in printed, log.read_text()
            known = seats.read(root / "data" / "lake" / "review")
            until = time.monotonic() + 60
            while not answers(known.port) and time.monotonic() < until:
                time.sleep(0.1)
            yield Served(process, printed, log)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            process.stdout.close()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-first-run", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def opened(browser, url, strayed, **how):
    """A page in a browser of its own; what would leave this machine, or fails, is noted."""
    page = browser.new_context(viewport={"width": 1100, "height": 900}, **how).new_page()
    page.set_default_timeout(90_000)
    origin = url.split("/voila/")[0]

    def route(one):
        is_here = one.request.url.startswith((origin, "data:", "blob:"))
        one.continue_() if is_here else (strayed.append(one.request.url), one.abort())

    page.route("**/*", route)
    page.goto(url, wait_until="commit")
    return page


def screenshot(page, name, folder):
    to = Path(os.environ.get("ARISLAB_SCREENSHOTS", folder))
    to.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(to / f"{name}.png"), full_page=True)


def decide(page, name, n):
    """Decide the next n items by clicks; r rejects for no reason."""
    for _ in range(n):
        page.get_by_role("button", name=name, exact=True).click()
        if name == "Reject":
            page.keyboard.press("r")
        page.wait_for_timeout(400)  # a person looks at the next one; less is held for a slip
    page.get_by_text("all saved").wait_for()


LIGHT = """['background-color', 'color'].map(which => {
  const panel = getComputedStyle(document.querySelector('.arislab-core'))[which].match(/[\\d.]+/g).slice(0, 3);
  return panel.reduce((sum, part) => sum + part / 765, 0); })"""
"""How light the paper and the ink of the panel are, 0 to 1."""


@pytest.mark.slow
def test_two_people_review_at_once_and_a_third_settles_what_they_disagree_about(tmp_path, home):
    lake, strayed = filled(tmp_path, n=20), []
    names = ("--reviewer", ADA, "--reviewer", GRACE, "--lead", f"Alan {HOSTILE}")
    how = ("-p", "overlap", "1.0", "-p", "planted", "0.0")
    with served(tmp_path, *names, *how, home=home) as server, chromium() as browser:
        schemes = {ADA: "light", GRACE: "dark"}
        ada, grace = (opened(browser, server.url(name), strayed, color_scheme=schemes[name]) for name in schemes)
        for page, name in ((ada, ADA), (grace, GRACE)):
            page.get_by_role("button", name="Approve", exact=True).wait_for()
            assert page.get_by_label("Reviewer").input_value() == name
            assert page.get_by_label("Reviewer").is_disabled()
            seen = page.content().replace("what was typed is kept as a draft", "")  # the tip of a button, no stratum
            assert not [word for word in ("0.734375", "secret-7b", "sessions.Session", "kept") if word in seen]
            assert [share > 0.5 for share in page.evaluate(LIGHT)] == {ADA: [True, False], GRACE: [False, True]}[name]
        screenshot(ada, "review-page", tmp_path)
        screenshot(grace, "review-page-dark", tmp_path)
        decide(ada, "Approve", 20)
        decide(grace, "Reject", 2)
        decide(grace, "Approve", 18)
        screenshot(grace, "review-page-done", tmp_path)
        assert lake["reviews"].rows == 0, "not a commit a label"
        lead = opened(browser, server.url("Alan"), strayed)
        lead.get_by_text("2 to adjudicate").wait_for()
        assert "Number" in lead.content()
        assert not lead.get_by_text("reviewer C").count()
        for words in ("as of ", "per minute", "± 0.03 is reached", "krippendorff_alpha"):
            assert lead.get_by_text(words).count(), words
        screenshot(lead, "review-lead", tmp_path)
        lead.get_by_role("button", name="Reject", exact=True).click()
        lead.get_by_text("1 to adjudicate").wait_for()
        for page in (ada, grace, lead):
            assert page.evaluate("window.pwned") is None
        assert strayed == []
        kernels = children(server.process.pid)
        assert len(kernels) == 3
    assert not [pid for pid in kernels if Path(f"/proc/{pid}").exists()], "Ctrl-C leaves no kernel"
    reviews = lake["reviews"].read()
    decided = dict(
        reviews.group_by("reviewer", "decision").len().select(pl.concat_str("reviewer", "decision"), "len").rows()
    )
    assert decided == {f"{ADA}approve": 20, f"{GRACE}approve": 18, f"{GRACE}reject": 2, f"Alan {HOSTILE}adjudicate": 1}
    assert reviews.filter(pl.col("decision") != "adjudicate")["blind"].all()
    assert set(reviews["session"]) == {f"{TASK.name}-team", None}
    states = dict(review.progress(lake["training_data_curated"].read(), reviews).select("state", "rows").iter_rows())
    assert (states["approved"], states["rejected"], states["disputed"]) == (18, 1, 1)


@pytest.mark.slow
def test_a_parameter_is_set_on_the_pages_that_have_it_and_an_unknown_one_is_refused(tmp_path, home):
    filled(tmp_path)
    pages = tmp_path / "data" / "lake" / "review" / "pages"
    with served(tmp_path, "-p", "n_review", "7", "-p", "session", "night", home=home):
        sources = [
            ["".join(cell["source"]) for cell in json.loads((pages / f"{name}.ipynb").read_text())["cells"]]
            for name in ("review", "lead")
        ]
    assert all(page[1].startswith("reviewer: str") for page in sources), "below the defaults"
    assert [page[2] for page in sources] == ["n_review = 7\nsession = 'night'", "session = 'night'"]
    assert not [page for page in pages.iterdir() if page.is_symlink()]
    for wrong, says in ((("tsk", "x"), "no parameter 'tsk'; did you mean 'task'"), (("seed", "x"), "seed must be")):
        done = here("review", "--root", tmp_path, "-p", *wrong)
        assert done.returncode != 0
        assert says in done.stderr
    with served(tmp_path, home=home):
        assert all(page.is_symlink() for page in pages.iterdir()), "the notebooks themselves again"
    assert "night" not in (CHECKOUT / "notebooks" / "review_page.ipynb").read_text()


def asked(url, cookie=""):
    request = urllib.request.Request(url, headers={"Cookie": cookie})
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@pytest.mark.slow
def test_nobody_gets_in_without_an_address_of_their_own(tmp_path, home):
    filled(tmp_path)
    with served(tmp_path, "--reviewer", "Ada", home=home) as server:
        origin = server.url("Ada").split("/voila/")[0]
        token = server.url("Ada").partition("token=")[2]
        for path in ("/", "/voila/tree", "/voila/render/review.ipynb", "/voila/render/review.ipynb?token=guess"):
            assert asked(origin + path) == 302, path  # to a form that lets nobody in
        assert asked(f"{origin}/voila/render/lead.ipynb?token={token}") == 302, "the lead's page is the lead's"
        assert asked(f"{origin}/voila/files/../seats.json") in (302, 403, 404)
        assert asked(f"{origin}/api/kernels") in (302, 403, 404)
        assert oct((tmp_path / "data" / "lake" / "review" / "seats.json").stat().st_mode)[-3:] == "600"
        first = server.printed
    with served(tmp_path, home=home) as again:
        assert again.printed == first, "addresses stay the same"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((seats.HOST, seats.read(tmp_path / "data" / "lake" / "review").port))
        other.listen()
        done = subprocess.run(
            [sys.executable, "-m", "arislab", "review", "--root", str(tmp_path)],
            cwd=CHECKOUT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be used" in done.stderr


# ---- the notebooks behind the pages ----------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    return filled(tmp_path)


def test_a_session_that_is_judged_goes_on_with_what_can_be_drawn_by_now(lake, tmp_path):
    """Rows that were generated after the first page had been opened were never shown to anybody."""

    def page(name):
        cells = {"n_review": 4, "overlap": 0.0, "planted": 0.0}
        return play("review_page", tmp_path, reviewer=name, **cells)["panel"]

    of_ada, names = page("Ada"), set()
    while (row := of_ada.current) is not None:
        names.add(row["custom_id"])
        assert of_ada.approve()
    of_grace = page("Grace").ahead(99)
    assert (len(names), len(of_grace)) == (4, 2)
    names |= {row["custom_id"] for row in of_grace}
    assert names == set(lake["training_data_curated"].read()["custom_id"])
    assert page("Alan").current is None, "nothing is added while one is left"


def test_an_output_that_everybody_skips_keeps_nobody_from_the_others(lake, tmp_path):
    """It waited for somebody else, and nothing was drawn beside it; now it may be drawn again with the others."""
    cells = {"n_review": 4, "overlap": 0.0, "planted": 0.0}
    first = play("review_page", tmp_path, reviewer="Ada", **cells)["panel"]
    skipped = first.current["custom_id"]
    assert first.skip()
    while first.current is not None:
        assert first.approve()
    again = play("review_page", tmp_path, reviewer="Ada", **cells)["panel"]
    assert len(again.ahead(99)) == 2
    assert skipped not in {row["custom_id"] for row in again.ahead(99)}
    grace = play("review_page", tmp_path, reviewer="Grace", **cells)["panel"]
    assert [row["custom_id"] for row in grace.ahead(99)] == [skipped]


def event(row, decision, reviewer, **more):
    return decisions.event(row, decision, reviewer=reviewer, **more)


def test_what_is_disputed_or_flagged_in_the_notebook_of_one_person_comes_before_the_lead(lake, tmp_path):
    """A row about which two people disagreed in review.ipynb waited for ever: no page showed it for adjudication."""
    one, two, *_ = lake["training_data_curated"].read().rows(named=True)
    stray = {"custom_id": "r-of-another-task", "input": "Q", "output": "A"}
    made = [event(one, "approve", "Ada"), event(one, "reject", "Grace"), event(two, "flag", "Ada")]
    lake["reviews"].append(pl.concat([*made, event(stray, "flag", "Ada")]))
    book = play("review_lead", tmp_path, reviewer="Alan")
    assert book["rows"]["custom_id"].to_list() == [one["custom_id"]]
    assert book["flags"]["custom_id"].to_list() == [two["custom_id"]]
    assert book["own"].is_empty(), "pace and agreement are of the session"


@pytest.mark.parametrize("notebook", ["review", "review_lead"])
def test_rows_of_a_certificate_that_was_withdrawn_are_not_counted_as_certified(lake, tmp_path, notebook, monkeypatch):
    """The count said that rows were settled which nobody had looked at, and no certificate vouched for any more."""
    shown = []
    monkeypatch.setattr(
        "arislab.review.progress", lambda *frames: shown.append(decisions.progress(*frames)) or shown[-1]
    )
    rows = lake["training_data_curated"].read()
    of_rows = [
        {"certificate": "c1", "custom_id": row["custom_id"], "is_sampled": False}
        | {"shown_sha256": decisions.sha256(row["output"]), "asked_sha256": decisions.sha256(row["input"])}
        for row in rows.head(4).rows(named=True)
    ]
    lake["certified_rows"].append(pl.DataFrame(of_rows))
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def say(what, minute):
        lake["certificates"].append(certificate(what, at.replace(minute=minute)))

    def states():
        play(notebook, tmp_path, reviewer="Alan")
        return dict(shown[-1].select("state", "rows").iter_rows())

    say("issued", 0)
    assert states()["certified"] == 4, "before 2_curate is run"
    marks = pl.when(pl.col("custom_id").is_in([row["custom_id"] for row in of_rows]))
    stored = rows.with_columns(
        reviewed_by=marks.then(pl.lit("certificate:c1")),
        approved=marks.then(pl.lit(value=True)).otherwise(pl.lit(value=False)),
        needs_review=marks.then(pl.lit(value=False)).otherwise(pl.lit(value=True)),
    )
    lake["training_data_curated"].replace(stored.drop("run_id", "created_at"), where={"task": TASK.name})
    assert states()["certified"] == 4
    say("withdrawn", 1)
    assert (states()["certified"], states()["waiting"]) == (0, 6)


def certificate(what, at):
    known = {"stratum": "all", "rows_sha256": "0" * 64, "n_rows": 4, "looks": 1, "seed": 1}
    row = {"certificate": "c1", "event": what, "at": at, "actor": "Alan"} | known
    return pl.DataFrame([row], schema_overrides={"at": pl.Datetime("us", "UTC")})
