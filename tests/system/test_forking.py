"""A fork is the process that Python would have started: its arguments, environment, output and end."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from toys import ended

from arislab.system.forking import Forks


@pytest.fixture(scope="module")
def forks():
    made = Forks("decimal", "fractions")
    yield made
    made.close()


@pytest.fixture
def run(forks, tmp_path):
    def run(*arguments, **environment):
        log = tmp_path / "log.txt"
        fork = forks.start(arguments, environment={**os.environ, **environment}, log=log)
        return fork.wait(20), log.read_text()

    return run


SAYS = """
import json, os, sys
imported = [name for name in ("fractions", "polars") if name in sys.modules]
print(json.dumps([sys.argv[1:], __name__, imported, os.environ["GIVEN"], os.getcwd(), sys.stdin.read()]))
"""


def test_it_has_the_arguments_environment_folder_and_output_of_a_process_of_its_own(run, tmp_path, monkeypatch):
    (tmp_path / "says.py").write_text(SAYS)
    for at, arguments in enumerate((["-c", SAYS], [str(tmp_path / "says.py")])):
        code, said = run(*arguments, "ä", "--b", GIVEN=f"é{at}\udcff")
        assert (code, json.loads(said)[0][0]) == (0, "ä")
        assert json.loads(said)[1:] == ["__main__", ["fractions"], f"é{at}\udcff", str(Path.cwd()), ""]
    code, said = run("-m", "json.tool", "--help")
    assert code == 0
    assert "usage" in said


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("raise SystemExit(28)", 28, ""),
        ("raise SystemExit('for a reason')", 1, "for a reason\n"),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os._exit(7)", 7, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)",
            1,
            "KeyboardInterrupt\n",
        ),
    ],
)
def test_it_ends_as_a_process_of_its_own_would(run, code, expected, said):
    ended_with, log = run("-c", code)
    assert ended_with == expected
    assert log.endswith(said)


def test_several_run_at_once_and_can_be_ended(forks, tmp_path):
    how = {"environment": os.environ, "log": tmp_path / "log"}
    some = [forks.start(["-c", f"import time; time.sleep({seconds})"], **how) for seconds in (60, 0, 60)]
    assert some[1].wait(20) == 0
    assert [fork.poll() for fork in some] == [None, 0, None]
    with pytest.raises(subprocess.TimeoutExpired):
        some[0].wait(0.1)
    some[0].terminate()
    some[2].kill()
    assert [fork.wait(20) for fork in some] == [-signal.SIGTERM, 0, -signal.SIGKILL]
    some[0].kill()  # of what has ended nothing is sent to: its number may be another's by now


def test_what_libraries_read_at_their_import_is_never_another_process_s(forks, tmp_path):
    log = tmp_path / "log"
    asks = ["-c", "import os; print(os.environ.get('OMP_NUM_THREADS'), os.getppid())"]
    said, running = [], []
    for threads in ("1", "2", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        slow = forks.start(["-c", "import time; time.sleep(60)"], environment=environment, log=tmp_path / "slow")
        forks.start(asks, environment=environment, log=log).wait(20)
        said.append(log.read_text().split())
        running.append(slow)
    assert [threads for threads, _ in said] == ["1", "2", "2"]
    assert said[0][1] != said[1][1] == said[2][1]
    for slow in running:  # also that of a Python that is used no more
        assert slow.poll() is None
        slow.kill()
        assert slow.wait(20) == -signal.SIGKILL


def test_modules_that_are_not_there_are_said_and_a_server_that_was_killed_is_replaced(tmp_path):
    how = {"environment": os.environ, "log": tmp_path / "log"}
    with pytest.raises(EOFError, match="a Python with json, no_such_module ended"):
        Forks("json", "no_such_module").start(["-c", ""], **how)
    forks = Forks("json")
    slow = forks.start(["-c", "import time; time.sleep(60)"], **how)
    server = forks._pythons[-1]._process
    server.kill()
    server.wait()
    assert slow.wait(20) == -signal.SIGKILL
    os.kill(slow.pid, signal.SIGKILL)
    assert forks.start(["-c", ""], **how).wait(20) == 0
    forks.close()


def test_an_order_that_was_interrupted_is_no_answer_to_the_next(tmp_path):
    forks, how = Forks("json"), {"environment": os.environ, "log": tmp_path / "log"}

    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.02)  # while it starts
    with pytest.raises(KeyboardInterrupt):
        forks.start(["-c", "raise SystemExit(3)"], **how)
    signal.signal(signal.SIGALRM, before)
    assert forks.start(["-c", "raise SystemExit(4)"], **how).wait(20) == 4
    forks.close()


def test_a_code_that_was_not_read_is_not_lost_when_another_python_is_needed(tmp_path):
    forks, log = Forks("json"), tmp_path / "log"
    first = forks.start(
        ["-c", "import time; time.sleep(.3)"], environment={**os.environ, "OMP_NUM_THREADS": "1"}, log=log
    )
    forks.start(["-c", ""], environment={**os.environ, "OMP_NUM_THREADS": "2"}, log=log).wait(20)
    assert first._python._process.wait(20) == 0
    forks.start(["-c", ""], environment={**os.environ, "OMP_NUM_THREADS": "2"}, log=log).wait(20)
    assert first.wait(20) == 0
    forks.close()


def test_it_has_the_rights_and_limits_of_its_owner_as_they_are_now(forks, tmp_path):
    asks = ["-c", "import os, resource; print(os.umask(0), resource.getrlimit(resource.RLIMIT_CORE)[0])"]
    how, soft = {"environment": os.environ, "log": tmp_path / "log"}, resource.getrlimit(resource.RLIMIT_CORE)
    forks.start(["-c", ""], **how).wait(20)
    mask = os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, soft[1]))
    try:
        assert forks.start(asks, **how).wait(20) == 0
    finally:
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_CORE, soft)
    assert (tmp_path / "log").read_text().split() == [str(0o077), "0"]


def test_a_number_that_is_used_again_has_no_code_of_before(forks, tmp_path):
    fork = forks.start(["-c", "import time; time.sleep(60)"], environment=os.environ, log=tmp_path / "log")
    lines = ({"pid": 1, "code": 7}, {"pid": 1}, {"pid": 2}, {"pid": 2, "code": 5})
    fork._python._rest = "".join(json.dumps(line) + "\n" for line in lines).encode()
    fork.kill()
    assert fork.wait(20) == -signal.SIGKILL
    assert [fork._python._codes.get(pid) for pid in (1, 2)] == [None, 5]


def test_it_ends_with_its_owner(tmp_path):
    code = f"""
    import os
    from pathlib import Path
    from arislab.system.forking import Forks
    forks = Forks("json")
    fork = forks.start(["-c", "print(1)"], environment=os.environ, log=Path({str(tmp_path / "log")!r}))
    fork.wait(20)
    print(forks._pythons[-1]._process.pid, flush=True)
    os.kill(os.getpid(), 9)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, check=False).stdout
    assert ended(int(said))
