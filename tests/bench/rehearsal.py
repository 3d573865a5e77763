"""The whole way once, at the size of the seed, with kills in every phase, and an account of every row.

python tests/bench/rehearsal.py ROOT [--candidates 170000] [--approve 10000] [--kills 2] [--seed 1] [--until PHASE]

Phases: generate, curate, review (scripted reviewers, certificates), icl, finetune, evaluate (gate, promotion), deploy,
on the embedded server. In each, the command is killed with SIGKILL at random moments, in generate the server and one of
its workers too, and the same command is run again. Where a phase writes what must not be half (versions, events, a
switch), one more kill comes just after the commit before. Measured of each phase: wall seconds of all attempts, CPU
seconds and the peak of the proportional set sizes of all its processes, looked at once a second, and the seconds until
the processes of a killed command were gone. Goes on with the phase after the last one in ROOT/rehearsal.json, which is
printed at the end; exit code 1 if an account does not close.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from demo import family, pss_mb

TICKS = os.sysconf("SC_CLK_TCK")
PHASES = ("generate", "curate", "review", "icl", "finetune", "evaluate", "deploy")
AFTER = {"curate": "training_data_scored", "finetune": "finetuning_runs", "evaluate": "evaluations"}
AFTER |= {"review": "certified_rows", "deploy": "deployments"}
"""After whose next commit one more kill comes."""
SECONDS = {"curate": 40, "review": 10, "icl": 60, "finetune": 200, "evaluate": 60, "deploy": 12}
"""Within which a kill comes, after a start; of generate the seconds grow with the candidates."""


def commits(root, table):
    return len(list((root / "data" / "lake" / table / "_delta_log").glob("*.json")))


def words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def cpu(pid):
    """The process by its pid and start, and its CPU seconds; null if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (pid, fields[19]), (int(fields[11]) + int(fields[12])) / TICKS


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Phase:
    """One phase, its command run again and again until it ends well."""

    def __init__(self, name, command, root, chance):
        self.name, self.command, self.root, self.chance = name, command, root, chance
        self.cpu_s, self.peak_mb, self.gone_s = {}, 0.0, []
        self.kills, self.n_attempts, self.n_failed, self.wall_s = Counter(), 0, 0, 0.0

    def look(self, pid):
        """Take CPU and memory of all processes down."""
        pids = family(pid)
        self.cpu_s |= dict(filter(None, map(cpu, pids)))
        self.peak_mb = max(self.peak_mb, sum(map(pss_mb, pids)))
        return pids

    def victim(self, whom, pids):
        """The process to kill: the command, its server, or a worker of it; null while there is none."""
        if whom == "command":
            return pids[0]
        if whom == "server":
            return next((pid for pid in pids if " serve --data " in words(pid)), None)
        forks = [pid for pid in pids if "multiprocessing.forkserver" in words(pid)]
        workers = [pid for pid in forks if any(pid in family(other)[1:] for other in forks)]
        return self.chance.choice(workers) if workers else None

    def run(self, plan):
        """Run it until it ends well, killed as planned: whom, seconds since the last, and the table that must move."""
        self.plan = plan
        began = time.monotonic()
        while True:
            self.n_attempts, before = self.n_attempts + 1, self.kills.copy()
            with (self.root / "rehearsal.log").open("a") as log:
                process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, cwd=self.root)
            code = self.attempt(process)
            self.n_failed += code > 0 and self.kills == before
            if code == 0:
                break
            if self.n_failed > 2:
                break
        self.wall_s = time.monotonic() - began
        return code == 0

    def attempt(self, process):
        plan = self.plan
        since = looked = time.monotonic()
        before = {table: commits(self.root, table) for _, _, table in plan if table}
        pids = self.look(process.pid)
        while process.poll() is None:
            time.sleep(0.02)
            now = time.monotonic()
            if now - looked > 1:
                pids, looked = self.look(process.pid), now
            if not plan:
                continue
            whom, delay, table = plan[0]
            if table and commits(self.root, table) == before[table]:
                since = now
            elif now - since > delay and (target := self.victim(whom, self.look(process.pid))):
                pids = self.look(process.pid)
                os.kill(target, signal.SIGKILL)
                self.kills[whom + (f" after {table}" if table else "")] += 1
                plan.pop(0)
                since = now
        if process.returncode == -signal.SIGKILL:
            self.wait(pids)
        return process.returncode

    def wait(self, pids):
        """Until all that the killed command had started is gone."""
        began = time.monotonic()
        while any(map(is_there, pids)) and time.monotonic() - began < 60:
            time.sleep(0.05)
        self.gone_s.append(round(time.monotonic() - began, 1))

    def report(self):
        return {
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(sum(self.cpu_s.values()), 1),
            "peak_pss_mb": round(self.peak_mb),
            "kills": dict(self.kills),
            "kills_too_late": len(self.plan),
            "attempts": self.n_attempts,
            "failed_unkilled": self.n_failed,
            "processes_gone_after_s": self.gone_s,
            "load": os.getloadavg(),
        }


def plan_of(phase, given, chance):
    """Whom to kill, when: the command so many times, in generate its server and a worker too."""
    most = given.candidates / 425 if phase == "generate" else SECONDS[phase] * max(0.2, given.candidates / 170_000)
    whom = ["command"] * given.kills + (["server", "worker"] if phase == "generate" else [])
    chance.shuffle(whom)
    plan = [(one, chance.uniform(3, 3 + most), None) for one in whom]
    return plan + ([("command", chance.uniform(0, 0.5), AFTER[phase])] if phase in AFTER else [])


def command_of(phase, given):
    """What a user types; review has a script instead of people."""
    if phase == "review":
        return [sys.executable, str(Path(__file__).with_name("rehearsal_reviewers.py")), str(given.root), *asked(given)]
    parameters = {
        "generate": {"n_candidates": given.candidates},
        "icl": {"approve": "certified"},
        "finetune": {"approve": "certified", "num_train_epochs": 1, "checkpoint_minutes": 1},
    }.get(phase, {})
    parameters |= {} if phase == "deploy" else {"seed": given.seed}
    return [
        *(sys.executable, "-m", "arislab", "run", phase, "--root", str(given.root)),
        *(word for name, value in parameters.items() for word in ("-p", name, str(value))),
    ]


def asked(given):
    return ["--approve", str(given.approve), "--seed", str(given.seed)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--candidates", type=int, default=170_000)
    parser.add_argument("--approve", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", choices=PHASES, default=PHASES[-1])
    given = parser.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    given.root = given.root.resolve()
    path = given.root / "rehearsal.json"
    begun = {"asked": vars(given) | {"root": None}, "phases": {}, "failed": {}}
    report = json.loads(path.read_text()) if path.exists() else begun
    for phase in PHASES[: PHASES.index(given.until) + 1]:
        if phase in report["phases"]:
            continue
        chance = random.Random(f"{given.seed} {phase}")
        one = Phase(phase, command_of(phase, given), given.root, chance)
        is_done = one.run(plan_of(phase, given, chance))
        report["phases" if is_done else "failed"][phase] = one.report()
        path.write_text(json.dumps(report, indent=1))
        print(phase, json.dumps(one.report()), flush=True)
        if not is_done:
            raise SystemExit(f"{phase} failed: see {given.root / 'rehearsal.log'}")
    if given.until == PHASES[-1]:
        from rehearsal_account import Account

        report["account"] = Account(given.root, given.candidates).close()
        path.write_text(json.dumps(report, indent=1))
        print(json.dumps(report, indent=1))
        raise SystemExit(1 if report["account"]["does_not_close"] else 0)


if __name__ == "__main__":
    main()
