"""``arislab runs``: the list, filtered and sorted."""

import json
import subprocess
import sys

from toys import arislab_command, plant


def test_the_command_lists_filters_sorts_shows_and_compares(three):
    listed = arislab_command(three, "runs", "--where", "phase = 'icl'", "--sort", "gain", "-n", "1")
    assert listed.returncode == 0, listed
    assert listed.stdout.split()[0].endswith("bbbb")
    assert [line[:8] for line in listed.stdout.splitlines()] == ["20260102", "and more"]
    assert [run["status"] for run in json.loads(arislab_command(three, "runs", "--json").stdout)] == [
        "failed",
        "ok",
        "ok",
    ]
    nothing = arislab_command(three, "runs", "--where", "phase = 'icl' -- or more")
    assert len(nothing.stdout.splitlines()) == 2, "a comment does not cut off the order"
    nothing = arislab_command(three, "runs", "--where", "phase = 'evaluate'")
    assert (nothing.returncode, nothing.stdout, "no run fulfils that" in nothing.stderr) == (0, "", True)
    refused = arislab_command(three, "runs", "--sort", "gane")
    assert (refused.returncode, "known: " in refused.stderr.lower()) == (2, True)
    shown = arislab_command(three, "runs", "show", "bbbb").stdout
    assert "k " in shown
    assert "gain" in shown
    assert json.loads(arislab_command(three, "runs", "show", "bbbb", "--json").stdout)["parameters"] == {"k": 5}
    assert "k: 3 → 5" in arislab_command(three, "runs", "diff", "aaaa", "bbbb").stdout
    assert arislab_command(three, "runs", "diff", "aaaa", "aaaa").stdout == "no difference\n"
    gone = arislab_command(three, "runs", "show", "nope")
    assert (gone.returncode, "Traceback" in gone.stderr) == (2, False)


def test_a_reader_that_has_seen_enough_ends_the_list_quietly(three):
    for number in range(200):
        plant(three, f"20260201T000000Z-icl-{number:04x}", reason="x" * 2_000)
    command = f"'{sys.executable}' -m arislab runs --json -n 500 --root '{three}' | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout[0], done.stderr) == ("[", "")


def test_a_line_fits_120_columns_and_its_id_is_whole(three):
    plant(three, "20260201T000000Z-finetune-0001", status="failed", reason="because " * 90)
    numbers = {f"arm {n}": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 20} for n in range(9)}
    plant(three, "20260202T000000Z-evaluate-0002", status="ok", headline={"n_paid_earlier": 3, **numbers})
    plant(three, f"20260203T000000Z-{'n' * 120}-0003", status="ok", headline=numbers)
    longest, evaluated, failed, *_ = arislab_command(three, "runs").stdout.splitlines()
    assert longest.split()[0] == f"20260203T000000Z-{'n' * 120}-0003"
    assert evaluated.endswith("arm 0 0.500 [0.400, 0.600], arm 1 0.500 [0.400, 0.600]")
    assert (len(failed), failed[-1]) == (120, "…")
    assert max(len(evaluated), len(failed)) <= 120
