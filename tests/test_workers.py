"""Scorers in worker processes: the same rows whatever the number, and what no worker survives costs its row alone."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import polars as pl
import pytest

from arislab import curate, scoring, workers
from arislab.errors import ParameterError, TaskError
from arislab.system import processes
from arislab.task import FAILED, load

TASK = """
import ctypes, itertools, math, os, signal
from pathlib import Path


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]


def right(output, gold):
    return gold in output


def agrees(output, others):
    return math.fsum(o[:9] == output[:9] for o in others) / len(others) if others else None


def even(output, profile, metadata_of_row=None):
    words = [len(word) / 7 for word in output.split()]
    return min(1.0, math.exp(-sum(words) / (1 + len(words)) ** 1.5) * len(profile["input"]) / 1000)


def third(output):
    BODY


SCORERS = {"right": right, "agrees": agrees, "even": even, "third": third}
WEIGHTS = {"right": 3, "agrees": 1, "even": 0.7, "third": 0.1}
REPORT = {"even": even, "third": third}
"""


def task_of(folder, body="return len(output) % 3 / 3"):
    path = folder / "math.py"
    path.write_text(TASK.replace("BODY", body))
    return load(path)


def rows(n, *, output="answer {i}"):
    texts = [output.format(i=i) for i in range(n)]
    frame = pl.DataFrame({"custom_id": [f"r{i}" for i in range(n)], "output": texts})
    asked = pl.lit('{"input": "How many are left?"}')
    return frame.with_columns(
        candidate_id=pl.lit("c") + (pl.int_range(n) // 4).cast(str), profile=asked, gold=pl.lit("7")
    )


def gsm8k(shared):
    files = sorted((shared / "tora_gsm8k").glob("*.jsonl"))
    frames = []
    for model, file in enumerate(files):
        read = pl.read_ndjson(file, infer_schema_length=None).with_row_index("i")
        frames.append(
            read.select(
                custom_id=pl.format("{}-{}", pl.lit(model), "i"),
                candidate_id=pl.format("q{}", "i"),
                output=pl.when(pl.col("i") % 97 != 0).then(pl.col("code").list.join("\n")),
                profile=pl.struct(input="question").struct.json_encode(),
                metadata=pl.struct(gold=pl.col("gt").cast(pl.String)).struct.json_encode(),
            )
        )
    return pl.concat(frames)


def bits(frame):
    """A frame as bytes: two of them that print alike may differ in the last bit."""
    return frame.rechunk().write_ipc(None).getvalue()


@pytest.mark.slow
def test_scores_and_the_kept_set_are_equal_bit_for_bit_for_1_2_and_4_workers_and_on_a_rerun(tmp_path, shared):
    frame, task = gsm8k(shared), task_of(tmp_path)
    runs = [scoring.score(frame, task, n_workers=n) for n in (1, 2, 4, 4)]
    assert runs[0].height == frame.height > 2_500
    assert runs[0]["custom_id"].equals(frame["custom_id"])
    assert 0.1 < runs[0]["score_right"].mean() < 1
    assert runs[0]["score_even"].n_unique() > 1_000
    assert runs[0].filter(reason="no output").height == frame["output"].null_count() > 20
    assert len({bits(scored) for scored in runs}) == 1
    kept = [curate.keep_top(scored, fraction=0.2).kept["custom_id"].to_list() for scored in runs]
    assert kept[0] == kept[1] == kept[2] == kept[3]
    told = runs[0].filter(pl.col("quality").is_not_null()).gather_every(8).sort("custom_id")
    told = told.select(
        "custom_id", good=pl.col("score_even") + pl.col("score_third") > 1, weight=8.0, stratum=pl.lit("q")
    )
    groups = frame.select("candidate_id", group_id="candidate_id").unique(maintain_order=True)
    learned = [curate.learn(curate.Labels(told, scored, 0, 0), scored, groups, seed=1) for scored in runs]
    assert len(learned[0].model.signals) > 1, "a stack"
    assert len({bits(model.apply(scored)) for model, scored in zip(learned, runs, strict=True)}) == 1


def test_without_a_number_it_is_one_worker_per_core_and_none_for_a_few_rows(tmp_path, monkeypatch):
    task = task_of(tmp_path, "return float(os.getpid() % 1_000_003) / 1_000_003")
    monkeypatch.setattr(processes, "cores", lambda: 3)
    here = os.getpid() % 1_000_003 / 1_000_003
    assert scoring.score(rows(scoring.FEW - 1), task)["score_third"].unique().to_list() == [here]
    there = scoring.score(rows(3_000), task)["score_third"].unique()
    assert here not in there
    assert there.len() == 3
    assert here not in scoring.report(rows(3_000), task)["report_third"].unique()
    monkeypatch.setattr(processes, "cores", lambda: 1)
    assert scoring.score(rows(3_000), task)["score_third"].unique().to_list() == [here]
    assert here not in scoring.score(rows(2), task, n_workers=2)["score_third"].unique()
    mine = replace(task, scorers={**task.scorers, "third": lambda output: 0.5})
    assert scoring.score(rows(3_000), mine, n_workers=2)["score_third"].unique().to_list() == [0.5]
    with pytest.raises(ParameterError, match="n_workers must be a whole number from 0 on, got -1"):
        scoring.score(rows(3), task, n_workers=-1)


def test_a_container_with_a_share_of_the_cores_is_taken_at_its_word():
    assert 1 <= processes.cores() <= (os.cpu_count() or 1)


def test_calls_of_a_block_that_score_alike_use_the_same_workers_and_these_end_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 2)
    known = processes.descendants(os.getpid())
    task = task_of(tmp_path, "return float(os.getpid() % 1_000_003) / 1_000_003")
    with workers.kept():
        first, second = (scoring.score(rows(n), task)["score_third"] for n in (600, 601))
        assert set(second) <= set(first)
        assert len(set(first)) == 2
        others = scoring.report(rows(600), task)["report_third"]
        assert not set(others) & set(first), "scorers of another kind have workers of their own"
        started = processes.descendants(os.getpid()) - known
        assert len(started) == 4
    assert not started & processes.descendants(os.getpid())
    again = scoring.score(rows(600), task, n_workers=2)["score_third"]
    assert not set(again) & set(first)


def test_a_call_that_was_cut_off_leaves_nothing_to_the_next_one_of_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "GRACE_S", 0.2)
    ends = "if output.startswith('bad'):\n        os._exit(3)"
    task = task_of(tmp_path, f"{ends}\n    if output == 'late 7':\n        all(itertools.repeat(True))\n    return 0.5")
    plain = scoring.score(rows(600), task, n_workers=1)
    with workers.kept():
        for _ in range(2):
            with pytest.raises(TaskError, match="scorers failed on 7 of 600 rows, most often: 7 times scorer 'third'"):
                scoring.score(rows(600, output="bad {i}"), task, n_workers=2)
            assert scoring.score(rows(600), task, n_workers=2).equals(plain)
        late = scoring.score(rows(600, output="late {i}"), task, timeout_s=0.3, n_workers=2)
        assert late.filter(pl.col("reason").is_not_null())["custom_id"].to_list() == ["r7"]
        time.sleep(0.6)  # longer than a call may take: a worker that waits is in none
        assert scoring.score(rows(600), task, timeout_s=0.3, n_workers=2).equals(plain)


BAD = "int(output.split()[1]) % 353 == 5"  # 17 of 6,000
KILLS = {
    "os._exit(3)": "it ended its process (exit code 3)",
    "os.kill(os.getpid(), signal.SIGKILL)": "its process was ended by SIGKILL, as where memory runs out",
    "ctypes.string_at(0)": "its process was ended by SIGSEGV",
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_scorer_that_ends_its_process_on_17_of_6000_rows_costs_these_their_quality(tmp_path, kill):
    frame = rows(6_000)
    whole = scoring.score(frame, task_of(tmp_path), n_workers=1)
    task = task_of(tmp_path, f"if {BAD}:\n        {kill}\n    return len(output) % 3 / 3")
    scored = scoring.score(frame, task, n_workers=2)
    failed = scored.filter(pl.col("reason").is_not_null())
    assert failed["custom_id"].to_list() == [f"r{i}" for i in range(6_000) if i % 353 == 5]
    assert failed["reason"].unique().to_list() == [f"{FAILED}'third': {KILLS[kill]}"]
    assert failed["quality"].null_count() == failed["score_third"].null_count() == 17
    columns = [c for c in scored.columns if c != "scorer_version"]
    others = whole.join(failed, on="custom_id", how="anti", maintain_order="left")
    assert scored.filter(pl.col("reason").is_null()).select(columns).equals(others.select(columns))
    assert failed.select("score_even", "score_agrees").null_count().row(0) == (0, 0), "other scorers have said theirs"


@pytest.mark.slow
def test_processes_are_not_ended_without_end_where_a_scorer_ends_them_on_every_row(tmp_path):
    task, began = task_of(tmp_path, "os._exit(0)"), time.monotonic()
    with pytest.raises(TaskError, match=r"scorers failed on 61 of 6,000 rows, most often: 61 times scorer 'third' of"):
        scoring.score(rows(6_000), task, n_workers=2)
    assert time.monotonic() - began < 60  # 6,000 of them would take ten minutes


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_a_scorer_that_raises_on_17_of_6000_rows_and_on_all(tmp_path, n_workers):
    frame = rows(6_000)
    scored = scoring.score(
        frame, task_of(tmp_path, f"if {BAD}:\n        return {{}}['x']\n    return 0.5"), n_workers=n_workers
    )
    reasons = scored["reason"].drop_nulls()
    assert reasons.len() == scored["quality"].null_count() == 17
    assert reasons.unique().to_list() == [f"{FAILED}'third': KeyError: 'x' (line 25: return {{}}['x'])"]
    assert scored["quality"].count() + 17 == scored.height == 6_000
    with pytest.raises(TaskError) as refused:
        scoring.score(frame, task_of(tmp_path, "return 1 / 0"), n_workers=n_workers)
    assert str(refused.value).count("ZeroDivisionError") == 1
    assert str(refused.value).startswith(
        "scorers failed on 6,000 of 6,000 rows, most often: 6,000 times scorer 'third' of math.py failed on row 'r0': "
    )


@pytest.mark.parametrize("value", ["lambda: 1", "[{1}]", "'\\ud800'", "float('nan')", "10 ** 5000", "object"])
def test_what_no_process_can_be_sent_is_said_as_in_one(tmp_path, value):
    task = task_of(tmp_path, f"if {BAD}:\n        return {value}\n    return 0.5")
    here, there = (scoring.score(rows(400), task, max_failures=1, n_workers=n) for n in (1, 2))
    texts = [frame["reason"].str.replace_all("0x[0-9a-f]+", "0x") for frame in (here, there)]
    assert texts[0].drop_nulls().len() == 2
    assert texts[0].equals(texts[1])
    assert here.drop("reason").equals(there.drop("reason"))


# in C, where no signal gets through
STUCK = "if output.endswith(' 7'):\n        all(itertools.repeat(True))\n    return 0.5"


def test_a_scorer_that_no_signal_interrupts_costs_its_row_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "GRACE_S", 0.3)
    scored = scoring.score(rows(600), task_of(tmp_path, STUCK), timeout_s=0.3, n_workers=2)
    assert scored.filter(pl.col("reason").is_not_null())["custom_id"].to_list() == ["r7"]
    assert scored["reason"][7] == (
        f"{FAILED}'third': it took more than 0.3 s for this row (scorer_timeout_s) and could not be interrupted: its "
        "process was ended"
    )
    assert scored["score_third"].drop_nulls().unique().to_list() == [0.5]


def test_a_scorer_that_a_signal_interrupts_keeps_its_worker(tmp_path):
    body = "while output.endswith(' 7'):\n        pass\n    return float(os.getpid() % 1_000_003) / 1_000_003"
    task = task_of(tmp_path, body)
    with ThreadPoolExecutor(1) as pool:  # and has a clock there, in whichever thread the call stands
        scored = pool.submit(scoring.score, rows(600), task, timeout_s=0.2, n_workers=2).result()
    (reason,) = scored["reason"].drop_nulls()
    assert reason.startswith(
        f"{FAILED}'third': TooLongError: it took more than 0.2 s for this row (scorer_timeout_s) ("
    )
    assert scored["score_third"].drop_nulls().n_unique() <= 2


def test_a_task_file_that_changes_meanwhile_is_scored_as_it_was_loaded(tmp_path):
    task = task_of(tmp_path, f"if {BAD}:\n        return {{}}['x']\n    return 0.25")
    task.path.write_text("# another one\n" * 40)
    for n in (1, 2):
        scored = scoring.score(rows(600), task, max_failures=1, n_workers=n)
        assert scored["score_third"].drop_nulls().unique().to_list() == [0.25]
        assert scored["reason"].drop_nulls().unique().to_list() == [
            f"{FAILED}'third': KeyError: 'x' (line 25: return {{}}['x'])"
        ]


def test_what_a_scorer_prints_is_shown_once_and_is_no_message(tmp_path, capsys):
    body = "os.write(1, b'raw'); os.write(2, b'raw')\n    print('seen', output)\n    return 0.5"
    task = task_of(tmp_path, body)
    capsys.readouterr()
    assert scoring.score(rows(600), task, n_workers=2)["score_third"].unique().to_list() == [0.5]
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"seen answer {i}" for i in range(600))


def test_a_file_that_no_second_process_can_load_is_one_message(tmp_path):
    task = task_of(tmp_path, f"return 0.5\n\n\nPath({str(tmp_path / 'lock')!r}).touch(exist_ok=False)")
    with pytest.raises(TaskError, match=r"task file math\.py cannot be run: FileExistsError"):
        scoring.score(rows(600), task, n_workers=2)


def test_a_worker_that_ends_in_no_scorer_is_one_message_and_not_a_loop(tmp_path):
    broken = rows(600).with_columns(profile=pl.lit('{"input": '))
    with pytest.raises(TaskError, match=r"ended near row 'r\d+', in none of its scorers: .*exit code 1.*n_workers=1"):
        scoring.score(broken, task_of(tmp_path), n_workers=2)


def busy(folder):
    """A process of its own session that scores with two workers, which no signal interrupts; and their names."""
    task_of(folder, "all(itertools.repeat(True))")
    rows(600).write_parquet(folder / "rows.parquet")
    code = (  # who runs the tests in the background may have them ignore an interrupt, and all that they start
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import polars as pl; from arislab import scoring; from arislab.task import load\n"
        f"scoring.score(pl.read_parquet({str(folder / 'rows.parquet')!r}), load({str(folder / 'math.py')!r}), "
        "n_workers=2, timeout_s=3600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while len(started := processes.descendants(parent.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)  # by then they are in the scorer
    assert len(started) == 2
    return parent, started


def ended(started):
    until = time.monotonic() + 20
    while (left := [pid for pid, ticks in started if processes.start_ticks(pid) == ticks]) and time.monotonic() < until:
        time.sleep(0.05)
    return not left


def test_workers_end_with_a_parent_that_is_killed_even_in_a_call_that_no_signal_interrupts(tmp_path):
    parent, started = busy(tmp_path)
    parent.kill()
    parent.communicate()
    assert ended(started)


def test_an_interrupt_from_the_keyboard_is_one_and_leaves_no_worker(tmp_path):
    parent, started = busy(tmp_path)
    os.killpg(parent.pid, signal.SIGINT)
    said = parent.communicate(timeout=30)[1]
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert ended(started)
