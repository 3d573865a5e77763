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
