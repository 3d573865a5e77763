"""What is installed here, and what answers."""

import http.server
import importlib.metadata
import json
import sys
import threading

import pytest

from arislab.system import environment

NEEDS = [
    "polars>=1",
    'voila>=0.5; extra == "lab"',
    'nbstripout>=0.8; extra == "lab"',
    'arislab[lab]; extra == "test"',
    'pytest>=8; extra == "test"',
    'colorama>=1; sys_platform == "win32" and extra == "test"',
]
HERE = {"arislab": "0.1.0", "voila": "0.4.9", "pytest": "9.0rc1"}


@pytest.fixture
def installed(monkeypatch):
    def version(name):
        if name not in HERE:
            raise importlib.metadata.PackageNotFoundError(name)
        return HERE[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: NEEDS)


def test_an_extra_lacks_what_is_not_here_or_too_old_and_an_extra_of_extras_what_these_lack(installed):
    assert environment.missing("lab") == ["voila>=0.5 (0.4.9 is here)", "nbstripout>=0.8"]
    assert environment.missing("test") == environment.missing("lab")
    assert environment.versions() == {
        "python": sys.version.split()[0],
        **dict.fromkeys(environment.PACKAGES),
        "arislab": "0.1.0",
    }


def test_every_extra_of_the_project_that_its_users_need_is_known():
    extras = set(importlib.metadata.metadata("arislab").get_all("Provides-Extra"))
    own = {"test", "docs"}  # for who works on arislab
    assert extras - own == set(environment.EXTRAS)


def test_a_gpu_is_what_the_tool_of_its_maker_names(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.gpus() == []
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 550.54'\necho 'NVIDIA H200, 143771 MiB, 550.54'\n")
    tool.chmod(0o755)
    assert environment.gpus() == ["NVIDIA H200, 143771 MiB, 550.54"] * 2
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert environment.gpus() == []


@pytest.fixture
def server():
    """A server that lists two models for whoever has the key; what it was sent."""
    heard = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append((self.path, self.headers["Authorization"]))
            allowed = self.headers["Authorization"] in ("Bearer right", "Basic bWU6cGFzcw==")
            code = 302 if self.path.startswith("/away") else 200 if allowed else 401
            self.send_response(code)
            self.send_header("Location", "/v1/models")
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": "base"}, {"id": "tuned"}]}).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", heard
        running.shutdown()


def test_a_server_says_its_models_or_why_not(server):
    url, heard = server
    assert environment.answers(f"{url}/v1", "right") == {
        "base_url": f"{url}/v1",
        "models": ["base", "tuned"],
        "error": None,
    }
    assert environment.answers(f"{url}/v1/", None)["error"] == "it answers with 401 (no key, or another one)"
    assert environment.answers(f"{url}/away/v1", "right")["error"] == "it answers with 302"
    assert [path for path, _ in heard] == ["/v1/models", "/v1/models", "/away/v1/models"], "no key goes on elsewhere"
    away = environment.answers("http://127.0.0.1:9/v1", "right")
    assert away["models"] is None
    assert "refused" in away["error"]
    assert environment.answers("nonsense", None)["error"].startswith("ValueError")


def test_a_password_in_a_url_is_sent_and_not_said(server):
    url, _ = server
    said = environment.answers(url.replace("http://", "http://me:pass@") + "/v1", None)
    assert said["models"] == ["base", "tuned"]
    assert "pass" not in json.dumps(said)


def test_an_embedded_server_is_told_if_it_answers_and_is_of_this_machine(server, tmp_path):
    url, heard = server
    assert environment.embedded(tmp_path) is None
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "token").write_text("right\n")

    def address(url):
        (folder / "address.json").write_text(json.dumps({"url": url, "token_file": str(folder / "token")}))

    address(f"{url}/v1")
    assert environment.embedded(tmp_path)["models"] == ["base", "tuned"]
    address("http://127.0.0.1:9/v1")
    assert environment.embedded(tmp_path) is None, "it has ended"
    address("http://example.org/v1")
    assert environment.embedded(tmp_path) is None
    assert len(heard) == 1
    (folder / "address.json").write_text("[]")
    assert environment.embedded(tmp_path) is None
