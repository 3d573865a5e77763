"""``arislab lab``: JupyterLab for this machine only, whose kernels see the root."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest
from jupyter_client import BlockingKernelClient
from toys import CHECKOUT, ended, need


def command(*words, **more):
    return {"args": [sys.executable, "-m", "arislab", "lab", *map(str, words)], "cwd": CHECKOUT, **more}


def printed(told):
    """What a kernel prints that JupyterLab started, a line each: root, lake, working directory."""
    client = BlockingKernelClient(connection_file=str(told))
    client.load_connection_file()
    client.start_channels()
    lines = []
    code = "import os; from arislab.lake import Lake; print(os.environ['ARISLAB_ROOT'], Lake().path, os.getcwd(), sep='\\n')"
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(
            code, timeout=60, output_hook=lambda message: lines.append(message["content"].get("text", ""))
        )
    finally:
        client.stop_channels()
    return "".join(lines)


@pytest.mark.slow
def test_kernels_see_the_root_on_loopback_and_end_with_the_one_process(tmp_path):
    need("lab", present=find_spec("jupyterlab") is not None, why="JupyterLab is not installed")
    token, root = secrets.token_hex(16), tmp_path / "a root"
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
    server = subprocess.Popen(**started | {"cwd": tmp_path})
    try:
        for _ in range(600):
            assert server.poll() is None, server.communicate()[0]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/kernels?token={token}", data=b'{"path": "explore.ipynb"}'
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            told = tmp_path / "RUNTIME" / f"kernel-{json.load(answer)['id']}.json"
        assert printed(told).splitlines() == [str(root), f"{root}/data/lake", f"{CHECKOUT}/notebooks"]
        if shutil.which("ss"):
            listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
            assert {line.split()[3] for line in listening.splitlines() if f":{port} " in line} == {f"127.0.0.1:{port}"}
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=5)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            said = server.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            server.kill()
            said = server.communicate()[0]
    assert "Shutting down 1 kernel" in said
    assert ended(server.pid)


@pytest.mark.parametrize("option", ["--ip=0.0.0.0", "--ip", "--ServerApp.ip=0.0.0.0", "--LabApp.ip", "-ip=::"])
def test_it_listens_on_no_other_address(tmp_path, option):
    done = subprocess.run(**command("--root", tmp_path, option, "0.0.0.0"), capture_output=True, text=True, check=False)
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
