"""A connection to a Files + Batches server: the embedded one, started and stopped here, or any other by its URL.

This module does not know requests, batches or answers (batch does).
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import uniform
from typing import Any

from arislab.batch.cost import Price, prices
from arislab.batch.dialects import DIALECTS, Dialect, dialect
from arislab.errors import BatchError, ParameterError, PrerequisiteError, closest
from arislab.isolation import Isolation
from arislab.system import masking
from arislab.system.pause import retry_after_s

_PATIENCE_S = 120.0
_FREE = Price("", 0.0, 0.0, date.min, "computed by the server itself")
_EMBEDDED_MODEL = "embedded:"
_ENDING_S = 15.0  # that a server whose parent was killed may take to end
_IN_USE = "is in use by another arislab server"  # what it says that finds the folder's lock taken
_PAUSE_S = 0.2  # before the second try, at most; doubles up to 10 s


class Server:
    """A connection to a Files + Batches server; ``close`` stops it if it is the embedded one.

    Args:
        base_url: ``embedded`` (a server on a free loopback port with the tiny model, started here), ``embedded:FOLDER``
            (the same with the model in a folder, whatever ``model_path`` says), or the URL of any server of the
            protocol, ending in /v1. Its key comes from $ARISLAB_API_KEY or $OPENAI_API_KEY, never from a
            parameter. User and password in the URL are sent as Basic authorization if there is no key; they are shown
            and stored nowhere.
        folder: Where ledger and embedded server keep their files.
        adapters: Folder of LoRA adapters that the embedded server offers as models.
        model_path: Weights of the embedded server; default the tiny model that ships with arislab.
        dialect: Name of a ``Dialect``; auto recognises arislab's own server and takes any other for OpenAI's.
    """

    def __init__(
        self,
        base_url: str,
        *,
        folder: Path,
        adapters: Path | None = None,
        model_path: str = "tiny",
        dialect: str = "auto",
    ) -> None:
        shown = str(masking.masked(base_url))
        base_url, self._credentials = masking.take_apart(base_url)
        if base_url.startswith(_EMBEDDED_MODEL):
            base_url, model_path = "embedded", base_url.removeprefix(_EMBEDDED_MODEL)
        if base_url != "embedded" and not base_url.startswith(("http://", "https://")):
            raise ParameterError(
                f"base_url must be 'embedded' or a URL such as http://127.0.0.1:8000/v1, got {shown!r}; "
                "'embedded:FOLDER' serves the model in a folder."
            )
        if "?" in base_url or "#" in base_url:
            raise ParameterError(
                f"base_url must end with a path such as /v1, got {shown!r}; give no ? or # there: a key goes into "
                "ARISLAB_API_KEY."
            )
        self._replay = os.environ.get("ARISLAB_REPLAY")
        self._then = _as_it_was(Path(self._replay), shown) if self._replay else {}
        self.base_url, self.folder = "embedded" if self._replay else base_url, Path(folder)
        self._adapters, self._model_path = adapters, model_path
        self._process: subprocess.Popen[str] | None = None
        self._client: Any = None
        self._url = base_url
        self._shown = shown
        if self.base_url == "embedded":
            self._start()
            atexit.register(self.close)
        self.aliases: dict[str, str] = {}
        """Names that stand for a model which may change, such as ``candidate-evaluation@champion``, and that model."""
        self.models = self._models()
        """Names of the models that the server offers."""
        self.about = self._about()
        """What arislab's own server says of itself: instance, engine, response_format, limits; empty for any other."""
        self.dialect: Dialect = self._dialect(dialect)
        """How the server differs from OpenAI's."""
        self.identity = str(self.about.get("instance") or base_url)
        """Under this name the ledger keeps the server's batches: arislab's own server keeps it across ports and
        restarts."""
        self.recorded: list[dict[str, Any]] | None = self._then.get("isolation", []) if self._replay else None
        """What probes showed in the run that is repeated; null: none is."""
        self._times = iter(self._then.get("seconds", []))
        self._note(
            base_url=self._shown,
            identity=self.identity,
            dialect=self.dialect.name,
            models=self.models,
            aliases=self.aliases,
            about=self.about,
        )

    def decided(self, form: Any, why: str) -> None:
        """Record, under a run, which response_format its requests have: repeating the run must not ask again."""
        self._note(base_url=self._shown, form=form, why=why)

    def note_isolation(self, result: Isolation) -> None:
        """Record, under a run, whether the server keeps its models apart: repeating the run must not ask again."""
        self._note(base_url=self._shown, identity=self.identity, isolation=result.as_dict())

    def _note(self, **fields: Any) -> None:
        folder = os.environ.get("ARISLAB_RUN_DIR")
        if folder:
            with (Path(folder) / "servers.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(masking.masked(fields)) + "\n")

    def _about(self) -> dict[str, Any]:
        """Ask a server whether it is arislab's own; any other has no such route.

        A replayed one says what was decided then.
        """
        import openai

        try:
            about = self.patiently(lambda: self.client.get("/arislab", cast_to=object))
        except openai.APIStatusError:
            return {}
        if not isinstance(about, dict) or about.get("server") != "arislab":
            return {}
        then = {name: value for name, value in self._then.items() if name not in ("base_url", "models", "aliases")}
        return about | then

    def _dialect(self, name: str) -> Dialect:
        if name != "auto":
            return dialect(name)
        return DIALECTS["arislab" if self.about else "openai"]

    def _start(self, until: float | None = None) -> None:
        """Start the embedded server, or attach to the one that already serves this folder.

        One that serves it no more may not have ended yet, as after a kill of the process that started it.
        """
        until = time.monotonic() + _ENDING_S if until is None else until
        data = self.folder / "server"
        data.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "arislab",
            "serve",
            "--data",
            str(data),
            "--port",
            "0",
            "--parent-pid",
            str(os.getpid()),
            *(["--engine", f"replay:{self._replay}"] if self._replay else ["--model", self._model_path]),
        ]
        if self._adapters is not None:
            command += ["--adapters", str(self._adapters)]
        with (data / "server.log").open("a", encoding="utf-8") as log:
            n_before = log.tell()  # the log is kept from start to start
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True
            )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line.startswith("{"):
            (data / "address.json").write_text(line, encoding="utf-8")
        elif (data / "address.json").is_file() and self._answers(data / "address.json"):
            self._process = None  # another kernel's server: ours was refused by its lock
            line = (data / "address.json").read_text(encoding="utf-8")
        else:
            process = self._process
            self.close()
            tail = (data / "server.log").read_bytes()[n_before:].decode(errors="replace").strip().splitlines()[-3:]
            if any(_IN_USE in line for line in tail) and time.monotonic() < until:
                time.sleep(0.5)
                self._start(until)
                return
            how = "it was killed" if process.returncode == -signal.SIGKILL else "no message"
            raise BatchError(
                f"the embedded server did not start: {' / '.join(tail) or how}. Its log: {data / 'server.log'}"
            )
        ready = json.loads(line)
        self._url = ready["url"]
        self._client = client_of(self._url, Path(ready["token_file"]).read_text(encoding="utf-8").strip())

    def _answers(self, address: Path) -> bool:
        import openai

        ready = json.loads(address.read_text(encoding="utf-8"))
        try:
            client_of(ready["url"], Path(ready["token_file"]).read_text(encoding="utf-8").strip()).models.list()
        except (openai.OpenAIError, OSError):
            return False
        return True

    @property
    def client(self) -> Any:
        """The openai SDK's client, with its own retries switched off."""
        if self._client is None:
            key = key_of_environment()
            if key and self._credentials:
                warnings.warn(
                    f"{self._shown}: the user and password in the URL are not used, since ARISLAB_API_KEY or "
                    "OPENAI_API_KEY is set.",
                    stacklevel=2,
                )
            self._client = client_of(self._url, key, credentials=self._credentials)
        return self._client

    def _models(self) -> list[str]:
        import openai

        if self._then:
            self.aliases |= {k: v for k, v in (self._then.get("aliases") or {}).items() if k not in self.aliases}
            return list(self._then["models"])
        try:
            listed = [(m.id, getattr(m, "root", None)) for m in self.client.models.list()]
        except openai.APIConnectionError:
            raise PrerequisiteError(
                f"nothing answers at {self._url} (connection refused); start the server, or use base_url='embedded'."
            ) from None
        except openai.APIStatusError as error:
            raise PrerequisiteError(
                f"{self._shown} refuses ({error.status_code}: {error.message}); check ARISLAB_API_KEY{_NOT_KEPT}."
            ) from None
        # a model of another server may have a root too, its folder; only arislab's aliases have an @ in their name
        self.aliases = {name: root for name, root in listed if "@" in name and root and root != name}
        return [name for name, _ in listed if name not in self.aliases]

    def model(self, name: str = "") -> str:
        """Return ``name`` if the server lists it or knows it when asked; for an empty name the server's first model.

        Of an alias the model is returned that it names now: requests are named by the model that answers them, and what
        an earlier one answered is not taken for an answer of this one.

        Raises:
            ParameterError: The server does not know the name.
            PrerequisiteError: The server offers no model yet.
        """
        self.models = self._models()
        if name in self.aliases:
            return self.aliases[name]
        is_alias = "@" in name and bool(
            self.about
        )  # one that stands for nothing yet, whatever the server answers to it
        if name and name not in self.models and (is_alias or not self._knows(name)):
            raise ParameterError(
                f"{self._url} has no model {name!r}; {closest(name, [*self.models, *self.aliases])}."
                + (" Aliases are made by `arislab run deploy`." if is_alias else "")
            )
        if not self.models:
            raise PrerequisiteError(
                f"{self._url} offers no model yet; wait until it has loaded one, then run the cell again."
            )
        return name or self.models[0]

    def _knows(self, name: str) -> bool:
        """Whether the server has a model that it does not list, as a proxy or a loader of models may."""
        import openai

        if self._then:
            return False  # what was known then is in the list
        try:
            self.client.models.retrieve(name)
        except (openai.APIStatusError, openai.APIConnectionError):
            return False
        self._note(base_url=self._shown, identity=self.identity, also=name)
        return True

    def switch(self, alias: str, model: str, *, expected: str | None) -> None:
        """Let an alias of arislab's own server name another model, for every request from now on.

        Args:
            alias: Such as ``candidate-evaluation@champion``.
            model: Name of a model that the server offers.
            expected: What the alias names until now; null: nothing.

        Raises:
            PrerequisiteError: The alias names another model now, the server has no such model, or it is not arislab's.
        """
        import openai

        self.check_aliases()
        # a run that is repeated has a server of its own, where the alias names nothing yet
        body = {"alias": alias, "model": model} | ({} if self._replay else {"expected": expected})
        try:
            self.patiently(lambda: self.client.post("/arislab/aliases", body=body, cast_to=object))
        except openai.APIStatusError as error:
            raise PrerequisiteError(f"{self._shown} does not let {alias} name {model}: {error.message}") from None
        self.aliases[alias] = model

    def check_aliases(self) -> None:
        """Refuse a server that is not arislab's own: only these have aliases.

        Raises:
            PrerequisiteError: It is another one.
        """
        if not self.about:
            raise PrerequisiteError(
                f"{self._shown} is no server of arislab and has no aliases; put one in front of it: arislab serve "
                f"--data FOLDER --upstream {self._shown}, and give the URL of that one."
            )

    def seconds(self, body: dict[str, Any]) -> float | None:
        """Ask one request at once, outside of any batch, and return how long its answer took.

        Null where nothing is asked: the server is not arislab's own, or hands requests on to one that may want money
        for each, and its price does not say 0. Null too where no answer came. The answer is kept nowhere; under a run
        the time is, and repeating the run asks nobody.

        Args:
            body: Of the request.
        """
        if self._replay:
            return next(self._times, None)
        price = prices(str(body.get("model"))) if self.about.get("engine") in ("ray", "upstream") else _FREE
        is_free = bool(self.about) and price is not None and not any(price.usd_per_million)
        seconds = self._timed(body) if is_free else None
        self._note(base_url=self._shown, seconds=seconds)
        return seconds

    def _timed(self, body: dict[str, Any]) -> float | None:
        import openai

        began = time.monotonic()
        try:
            self.client.post("/chat/completions", body=body, cast_to=object)
        except (openai.APIStatusError, openai.APIConnectionError):
            return None
        return time.monotonic() - began

    def in_use(self) -> set[str]:
        """Models that requests and batches still ask at arislab's own server."""
        listed: Any = self.patiently(lambda: self.client.get("/arislab/aliases", cast_to=object))
        return set(listed["in_use"])

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have a server offer an adapter as a model, under a name that it never had.

        A server of arislab with a model of its own sees what lies in its folder of adapters.

        Args:
            name: Name of the model.
            folder: The adapter, as the server sees it.

        Raises:
            PrerequisiteError: The server cannot load it, or does not list it afterwards.
        """
        import openai

        if self._replay:
            return
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            self.patiently(lambda: self.client.post("/load_lora_adapter", body=body, cast_to=str))
        except openai.APIStatusError as error:
            raise PrerequisiteError(f"{self._shown} does not load {name}: {error.message}") from None
        self.models = self._models()
        if name not in self.models:
            raise PrerequisiteError(
                f"{self._shown} says that it loaded {name}, and lists {', '.join(self.models)}; look at its log, then "
                "run this again."
            )

    def unload_adapter(self, name: str) -> bool:
        """Have a server let an adapter go; False if it keeps it, as one does that sees a folder."""
        import openai

        if self._replay:  # as the one did that is repeated, unless the adapter was in use then
            return bool(self.about.get("engine") == "upstream")
        try:
            self.client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)
        except openai.APIStatusError:
            return False
        return True

    def revive(self) -> bool:
        """Start the embedded server again if it died; False if it runs, or is not ours to start."""
        if self.base_url != "embedded" or (self._process is not None and self._process.poll() is None):
            return False
        self.close()
        self._start()
        return True

    def patiently(self, call: Callable[[], Any], *, rewind: Any = None) -> Any:
        """Repeat a call that is safe to repeat while the server cannot be reached.

        An embedded server that died is started again.

        Args:
            call: Uses ``self.client`` afresh each time.
            rewind: A file to rewind before another try.

        Raises:
            BatchError: No answer for two minutes.
        """
        import openai

        until, pause = time.monotonic() + _PATIENCE_S, _PAUSE_S
        while True:
            try:
                return call()
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise BatchError(
                    f"{self.base_url} refuses the key ({error.status_code}); set ARISLAB_API_KEY to a key that it "
                    "takes and run the cell again: nothing is lost."
                ) from None
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                if _is_final(error):
                    raise
                # full jitter, never less than the server asks for
                wait_s = max(uniform(0, pause), _retry_after_s(error))
                if time.monotonic() + wait_s > until:
                    raise BatchError(
                        f"{self.base_url} did not answer for {_PATIENCE_S:.0f} s ({error}); nothing is lost: run the "
                        "cell again."
                    ) from None
                self.revive()
                time.sleep(wait_s)
                pause = min(10.0, pause * 2)
                if rewind is not None:
                    rewind.seek(0)

    def close(self) -> None:
        """Stop the embedded server, if this connection started it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        how = "embedded" if self.base_url == "embedded" else "given"
        return f"Server {self._url} ({how}): {', '.join(self.models)}"


_NOT_KEPT = ", or the user and password in base_url (records keep none)"

_N_CONNECTED: Counter[tuple[Path, str]] = Counter()


def _as_it_was(recorded: Path, base_url: str) -> dict[str, Any]:
    """What a server said when the run that is repeated connected to it: at the same base_url, for the same time."""
    with recorded.open(encoding="utf-8") as file:
        connections: list[dict[str, Any]] = json.loads(file.readline())["connections"]
    here = [one for one in connections if one["base_url"] == base_url] or connections
    at = _N_CONNECTED[recorded, base_url]
    _N_CONNECTED[recorded, base_url] += 1
    return here[min(at, len(here) - 1)]


def key_of_environment() -> str | None:
    """Return the key for servers: of arislab's own variable, else of the one that OpenAI's tools read; null: none."""
    return (os.environ.get("ARISLAB_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip() or None


def client_of(url: str, key: str | None, *, credentials: str | None = None, timeout_s: float = 120) -> Any:
    """Return the openai SDK's client for a server, without retries.

    What servers say in their errors is shown without secrets.

    Args:
        url: Without user and password.
        key: The bearer token; goes before credentials.
        credentials: ``user:password``, sent as Basic authorization.
        timeout_s: Of one call.
    """
    import openai

    class Client(openai.OpenAI):
        def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> openai.APIStatusError:
            shown = (str(masking.masked(err_msg)), masking.masked(body))
            return super()._make_status_error(shown[0], body=shown[1], response=response)

        def _prepare_options(self, options: Any) -> Any:
            if options.method.lower() != "get":
                # what is sent goes to no server that nobody named, and never becomes a GET
                options.follow_redirects = False
            return super()._prepare_options(options)

    headers = {"Authorization": masking.basic(credentials)} if credentials and not key else None
    web = openai.DefaultHttpxClient()
    client = Client(
        base_url=url, api_key=key or "none", max_retries=0, timeout=timeout_s, default_headers=headers, http_client=web
    )
    # a client stands in a circle with its resources: left to the collector, a socket may go before who would close it
    weakref.finalize(client, web.close).atexit = False
    return client


def _is_final(error: Any) -> bool:
    """Whether a server says that trying again does not help, as arislab's does that has tried itself."""
    response = getattr(error, "response", None)  # a connection that broke brought none
    return response is not None and response.headers.get("x-should-retry") == "false"


def _retry_after_s(error: Any) -> float:
    """Seconds that the server asked to wait, 0 if it did not; at most a minute."""
    response = getattr(error, "response", None)
    header = response.headers.get("retry-after") if response is not None else None
    return min(60.0, retry_after_s(header) or 0.0)


def connect(
    base_url: str, *, folder: Path, adapters: Path | None = None, model_path: str = "tiny", dialect: str = "auto"
) -> Server:
    """Connect to a Files + Batches server; arguments as in ``Server``, which can also stand in a ``with``."""
    return Server(base_url, folder=folder, adapters=adapters, model_path=model_path, dialect=dialect)
