"""``arislab lab``: JupyterLab for this machine only, on the notebooks and the records of a root, which kernels see."""

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest
from jupyter_client import BlockingKernelClient
from toys import CHECKOUT, ended, here, need, notebook

from arislab import runs
from arislab.cli import lab as desks
from arislab.errors import PrerequisiteError
from arislab.records import find as records
from arislab.runs import verify


def command(*words, **more):
    return {"args": [sys.executable, "-m", "arislab", "lab", *map(str, words)], "cwd": CHECKOUT, **more}


def printed(path):
    """What a kernel prints that JupyterLab started, a line each: root, lake, working directory."""
    client = BlockingKernelClient(connection_file=str(path))
    client.load_connection_file()
    client.start_channels()
    lines = []
    shown = "os.environ['ARISLAB_ROOT'], Lake().path, os.getcwd(), sep='\\n'"
    code = f"import os; from arislab.lake import Lake; print({shown})"
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(
            code, timeout=60, output_hook=lambda message: lines.append(message["content"].get("text", ""))
        )
    finally:
        client.stop_channels()
    return "".join(lines)


class Lab:
    """A running ``arislab lab --root "a root"``; its folders are those of the test."""

    def __init__(self, tmp_path, port, token, process):
        self.root, self.runtime, self.port, self.token = tmp_path / "a root", tmp_path / "RUNTIME", port, token
        self.process, self.printed = process, ""

    def asked(self, path, method="GET", body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


@pytest.fixture
def lab(tmp_path):
    need("lab", present=find_spec("jupyterlab") is not None, why="JupyterLab is not installed")
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    (tmp_path / "CONFIG").mkdir()
    open_to_all = {"ServerApp": {"ip": "0.0.0.0", "allow_remote_access": True}}
    (tmp_path / "CONFIG" / "jupyter_server_config.json").write_text(json.dumps(open_to_all))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ARISLAB_R")}
    environment |= folders | {"JUPYTER_TOKEN": token, "IPYTHONDIR": str(tmp_path / "ipython")}
    options = ("--root", "a root", "--no-browser", "--port", port, "--allow-root", "--ServerApp.port_retries=0")
    started = command(*options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lab = Lab(tmp_path, port, token, subprocess.Popen(**started | {"cwd": tmp_path}))
    try:
        for _ in range(600):
            assert lab.process.poll() is None, lab.process.communicate()[0]
            try:
                lab.asked("api/status")
                break
            except OSError:
                time.sleep(0.1)
        yield lab
    finally:
        stop(lab)


def stop(lab):
    """End the server, and keep what it printed."""
    if lab.process.returncode is None:
        lab.process.send_signal(signal.SIGTERM)
        try:
            lab.printed = lab.process.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            lab.process.kill()
            lab.printed = lab.process.communicate()[0]


@pytest.mark.slow
def test_kernels_see_the_root_on_loopback_and_end_with_the_one_process(lab):
    kernel = json.loads(lab.asked("api/kernels", "POST", {"path": "notebooks/explore.ipynb"}))
    lines = printed(lab.runtime / f"kernel-{kernel['id']}.json").splitlines()
    assert lines == [str(lab.root), f"{lab.root}/data/lake", f"{CHECKOUT}/notebooks"]
    if shutil.which("ss"):
        listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
        here = {line.split()[3] for line in listening.splitlines() if f":{lab.port} " in line}
        assert here == {f"127.0.0.1:{lab.port}"}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", lab.port), timeout=5)
    stop(lab)
    assert "Shutting down 1 kernel" in lab.printed
    assert ended(lab.process.pid)


@pytest.mark.slow
def test_notebooks_and_records_of_the_root_are_shown_side_by_side_and_a_record_stays_true(lab, tmp_path):
    contents = json.loads(lab.asked("api/contents"))["content"]
    assert sorted((one["name"], one["type"]) for one in contents) == [
        ("notebooks", "directory"),
        ("papermill_runs", "directory"),
    ]
    assert '"preferredPath": "notebooks"' in lab.asked("lab")
    shown = {one["name"] for one in json.loads(lab.asked("api/contents/notebooks"))["content"]}
    assert {path.name for path in (CHECKOUT / "notebooks").glob("*.ipynb")} <= shown

    books = notebook(tmp_path / "nb", "print('one')", "2.0")
    record = runs.execute("curate", {"n": 2}, root=lab.root, notebooks=books)
    path = f"api/contents/papermill_runs/{record.run_id}/notebook.ipynb"
    opened = json.loads(lab.asked(path))
    opened["content"]["metadata"]["kernelspec"] = {"display_name": "Another", "language": "python", "name": "python3"}
    lab.asked(path, "PUT", {"type": "notebook", "content": opened["content"]})  # what autosave sends
    lab.asked(f"{path}/checkpoints", "POST", {})  # and what a save by hand adds
    assert "Another" in (record.folder / "notebook.ipynb").read_text()
    run = records.find(lab.root, record.run_id)
    assert verify.check_files(run).findings == []
    opened["content"]["cells"][-1]["source"] += " "
    lab.asked(path, "PUT", {"type": "notebook", "content": opened["content"]})
    assert [finding.where for finding in verify.check_files(run).findings] == ["notebook.ipynb"]
    assert [path for path in lab.root.rglob("*") if path.is_symlink()] == []


def test_a_desk_has_two_links_and_no_room_for_more(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebooks, roots = tmp_path / "notebooks", [tmp_path / "one", tmp_path / "other"]
    for folder in (notebooks, *roots):
        folder.mkdir()
    desk, other = (desks.desk(root, notebooks) for root in roots)
    assert desk != other
    assert {path.name: path.readlink() for path in desk.iterdir()} == {
        "notebooks": notebooks,
        "papermill_runs": roots[0] / "papermill_runs",
    }
    assert stat.S_IMODE(desk.stat().st_mode) == 0o500
    desk.chmod(0o700)
    (desk / "notebooks").unlink()
    (desk / "notebooks").symlink_to(tmp_path)
    assert desks.desk(roots[0], notebooks) == desk
    assert (desk / "notebooks").readlink() == notebooks
    (roots[1] / "papermill_runs").rmdir()
    (roots[1] / "papermill_runs").write_text("a file is in the way")
    with pytest.raises(
        PrerequisiteError, match=r"cannot write to .*papermill_runs.* choose another folder with --root"
    ):
        desks.desk(roots[1], notebooks)


@pytest.mark.parametrize("option", ["--ip=0.0.0.0", "--ip", "--ServerApp.ip=0.0.0.0", "--LabApp.ip", "-ip=::"])
def test_it_listens_on_no_other_address(tmp_path, monkeypatch, option):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("JupyterLab was started"))
    done = here("lab", "--root", tmp_path, option, "0.0.0.0")
    assert done.returncode == 2
    assert f"{option!r} is not passed on" in done.stderr
    assert "127.0.0.1 only" in done.stderr


def test_a_root_that_cannot_be_one_is_refused_before_anything_starts(tmp_path):
    done = subprocess.run(
        **command("--root", tmp_path / "50%20off", "--no-browser"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("arislab: --root ")
    assert list(tmp_path.iterdir()) == []
