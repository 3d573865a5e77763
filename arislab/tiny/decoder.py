"""The in-process engine: chat requests in, answers out, from a checkpoint and its LoRA adapters.

Needs torch, safetensors, tokenizers and jinja2; transformers and peft only for what is no plain Llama. The same list of
requests gives the same texts.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arislab import chat
from arislab.errors import ParameterError, PrerequisiteError
from arislab.tiny.weights import MODEL_DIR, Checkpoint, merge, multiplies_bfloat16, read_adapter, read_json

if TYPE_CHECKING:
    from arislab.tiny.causal import CausalLM
    from arislab.tiny.llama import Llama
    from arislab.tiny.sampling import Layers, Row

EXPECTED_TOKENS = 512
"""Answers are taken to be no longer when batches are cut; rows of a batch that outgrows its memory are put off."""
SMALL_BYTES = 64 * 2**20
"""Adapters are merged into copies of a model up to this size: fastest, and its recorded texts are those of the merged
weights, which differ in the last bits from those with the adapter beside them. Larger models share their weights."""
SHARED_TOKENS, SHARING_ROWS = 64, 2
"""A prefix is kept apart when it is this much longer than what all rows share, and this many rows share it."""
FLOAT32_BYTES = 2**30
"""Checkpoints up to this size are computed in float32, whatever they hold: greedy texts are then those of transformers
in float32 (SmolLM2-135M: 32 of 32; with bfloat16 matrices 25, in 0.65 of the time and 0.64 of the memory; transformers
in bfloat16 13). A larger one in bfloat16 stays so where the CPU multiplies it as such."""
ADAPTED_MODELS = 4
"""Models with an adapter kept in memory."""


Logprob = tuple[str, float, list[tuple[str, float]]]
"""Text and log-probability of a token, before temperature and top_p, and those of the likeliest tokens there."""


@dataclass(frozen=True)
class Request:
    """One chat request."""

    messages: list[dict[str, str]]
    model: str
    """A name in ``Engine.models()``."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    max_tokens: int | None = None
    """Cut to what the context leaves, which is also what None takes."""
    seed: int | None = None
    """Start of this row's random numbers. Rows with equal seeds share their luck: give each row its own. None: from
    the request itself."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Passed to the chat template."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    logprobs: bool = False
    """Whether the log-probabilities of the tokens are wanted."""
    top_logprobs: int = 0
    """How many of the likeliest tokens at each place are wanted beside them."""


@dataclass(frozen=True)
class Answer:
    """The answer to one request, or why there is none."""

    text: str
    finish_reason: str
    """``stop`` or ``length``; empty when there is an error."""
    prompt_tokens: int
    completion_tokens: int
    """Tokens written, with the end token."""
    error: str | None = None
    """``model_not_found``, ``model_not_loadable``, ``invalid_messages``, ``unsupported_parameter`` or
    ``context_length_exceeded``."""
    why: str = ""
    """What there is to say about the error."""
    logprobs: tuple[Logprob, ...] | None = None
    """Of each token written; null: nobody asked."""


class Engine:
    """A base model and the adapters beside it.

    Args:
        model_dir: a folder with config.json, safetensors, tokenizer.json and a chat template
        adapters_dir: a folder of PEFT LoRA folders, read again at each call; None: no adapters
        threads: for torch, in this whole process
    """

    def __init__(
        self, model_dir: Path | str = MODEL_DIR, adapters_dir: Path | str | None = None, threads: int = 1
    ) -> None:
        import torch
        from tokenizers import Tokenizer

        torch.set_num_threads(threads)
        self.model_dir = Path(model_dir)
        self.adapters_dir = Path(adapters_dir) if adapters_dir else None
        self.config = read_json(self.model_dir / "config.json")
        self.weights = Checkpoint(self.model_dir)
        self.base = base_name(self.model_dir)
        if not (self.model_dir / "tokenizer.json").is_file():
            raise PrerequisiteError(
                f"{self.model_dir} has no tokenizer.json; transformers writes it: "
                f"AutoTokenizer.from_pretrained({str(self.model_dir)!r}).save_pretrained({str(self.model_dir)!r})"
            )
        self.tokenizer = Tokenizer.from_file(str(self.model_dir / "tokenizer.json"))
        self.template = ChatTemplate(self.model_dir)
        self.ends = self._end_tokens()
        self._adapted: OrderedDict[tuple[str, int], Llama | CausalLM] = OrderedDict()
        self.is_small = self.weights.n_bytes <= SMALL_BYTES
        self._base_model = self._layers()
        self.about = self._base_model.about

    def _layers(self) -> "Llama | CausalLM":
        """The base model: our own layers where they compute the same, and faster, else those of transformers."""
        from arislab.tiny.causal import CausalLM
        from arislab.tiny.llama import Llama, problems

        bfloat16 = self.weights.n_bytes > FLOAT32_BYTES and multiplies_bfloat16()
        if not problems(self.config):
            return Llama(self.config, self.weights, is_small=self.is_small, bfloat16=bfloat16)
        text = self.config.get("text_config") or self.config
        given = text.get("dtype") or text.get("torch_dtype") or self.config.get("torch_dtype")
        return CausalLM(self.model_dir, bfloat16=bfloat16 and given == "bfloat16")

    def _end_tokens(self) -> frozenset[int]:
        """Return the ids that end an answer: those of the generation config, else of the config.

        And the tokenizer's own.
        """
        path = self.model_dir / "generation_config.json"
        config = self.config | (self.config.get("text_config") or {})  # models of text and pictures have two
        given = (read_json(path) if path.exists() else {}).get("eos_token_id", config.get("eos_token_id"))
        own = self.tokenizer.token_to_id(self.template.tokens.get("eos_token", ""))
        return frozenset({*(given if isinstance(given, list) else [given]), own} - {None})

    def models(self) -> list[str]:
        """Return the names that a request may give: the base model, then the adapters."""
        if self.adapters_dir is None or not self.adapters_dir.is_dir():
            return [self.base]
        adapters = sorted(path.parent.name for path in self.adapters_dir.glob("*/adapter_config.json"))
        return [self.base, *(name for name in adapters if name != self.base)]

    def _model(self, name: str) -> "Llama | CausalLM":
        """Return a model by name; a replaced adapter is read anew."""
        from arislab.tiny.llama import Llama

        if name == self.base or self.adapters_dir is None:
            return self._base_model
        folder = self.adapters_dir / name
        path = folder / "adapter_model.safetensors"
        if not path.exists():
            raise PrerequisiteError(f"{path} is missing; an adapter folder needs it beside adapter_config.json")
        key = (name, path.stat().st_mtime_ns)
        if key not in self._adapted:
            base = self._base_model
            if not isinstance(base, Llama):
                self._adapted[key] = base.adapted(folder)
            elif self.is_small:
                self._adapted[key] = Llama(self.config, merge(self.weights, read_adapter(folder)))
            else:
                self._adapted[key] = base.adapted(read_adapter(folder))
            if len(self._adapted) > ADAPTED_MODELS:
                _, oldest = self._adapted.popitem(last=False)
                if not isinstance(oldest, Llama):
                    oldest.forget()
        self._adapted.move_to_end(key)
        return self._adapted[key]

    def generate(
        self, requests: list[Request], emit: Callable[[int, Answer], None] = lambda i, answer: None
    ) -> list[Answer]:
        """Answer all requests, in their order.

        Args:
            requests: Rows may name different models, temperatures and limits.
            emit: Called with the place of each request and its answer as soon as it is known, in any order.
        """
        import torch

        from arislab.tiny.sampling import decode

        answers: dict[int, Answer] = {}
        by_model: dict[str, dict[int, Row]] = {}
        places: dict[int, int] = {}  # id of a row -> place of its request

        def answered(i: int, answer: Answer) -> None:
            answers[i] = answer
            emit(i, answer)

        known = set(self.models())  # read each time: phase 4 adds adapters while the server runs
        for i, request in enumerate(requests):
            prepared = self._row(request) if request.model in known else _failed("model_not_found")
            if isinstance(prepared, Answer):
                answered(i, prepared)
            else:
                by_model.setdefault(request.model, {})[i] = prepared
                places[id(prepared)] = i
        for name, rows in by_model.items():
            try:
                model = self._model(name)
            except PrerequisiteError as error:
                for i in rows:
                    answered(i, Answer("", "", 0, 0, "model_not_loadable", str(error)))
                continue
            with torch.inference_mode():
                alike = clusters(list(rows.values())) if model.shares_prefix else [(0, list(rows.values()))]
                for n_prefix, cluster in alike:
                    prefix, waiting = model.prefill(cluster[0].prompt[:n_prefix]), cluster
                    while waiting:
                        put_off: list[Row] = []
                        for batch in batches(waiting, n_prefix, model):
                            put_off += decode(
                                model,
                                batch,
                                prefix,
                                n_prefix,
                                self.ends,
                                is_stopped=self._is_stopped,
                                done=lambda row: answered(places[id(row)], self._answer(row)),
                            )
                        waiting = put_off
        return [answers[i] for i in range(len(requests))]

    def _row(self, request: Request) -> "Row | Answer":
        """Return a request as tokens, or why it cannot be answered."""
        from arislab.tiny.sampling import Row

        try:
            self.template.template.check(request.chat_template_kwargs or {})
        except ParameterError as error:
            return Answer("", "", 0, 0, "unsupported_parameter", str(error))
        try:
            text = self.template.render(request.messages, request.chat_template_kwargs)
        except chat.rendering_errors():
            return _failed("invalid_messages")
        prompt = self.tokenizer.encode(text, add_special_tokens=False).ids
        room = self._base_model.context - len(prompt)
        if room < 1:
            return _failed("context_length_exceeded", len(prompt))
        seed = request.seed
        if seed is None:
            given = [request.messages, request.model, request.temperature, request.top_p, request.max_tokens]
            # only where there are some: requests from before there were any keep their answers
            given += [request.chat_template_kwargs] if request.chat_template_kwargs else []
            seed = int.from_bytes(hashlib.sha256(json.dumps(given, sort_keys=True).encode()).digest()[:8])
        limit = min(request.max_tokens or room, room)
        stop = tuple(text for text in request.stop if text)
        # torch takes no larger seed
        row = Row(prompt, request.temperature, request.top_p, limit, seed % 2**63, stop)
        row.logprobs = [] if request.logprobs else None
        row.n_top = request.top_logprobs if request.logprobs else 0
        return row

    def _text(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _is_stopped(self, row: "Row") -> bool:
        # a character has at most four bytes, and a token at least one; the whole text at each token would be quadratic
        n_last = 4 * max(map(len, row.stop)) + 8
        last = self._text(row.written[-n_last:])
        # whole, once more: a text that begins amid a word, or amid a character, may read otherwise
        return any(stop in last for stop in row.stop) and cut(self._text(row.written), row.stop)[1]

    def _answer(self, row: "Row") -> Answer:
        text, is_cut = cut(self._text(row.written), row.stop)
        reason = "stop" if row.ended or is_cut else "length"
        logprobs = None
        if row.logprobs is not None:
            tops = row.tops if row.n_top else [[] for _ in row.written]
            logprobs = tuple(
                (self._text([token]), p, [(self._text([other]), q) for other, q in top])
                for token, p, top in zip(row.written, row.logprobs, tops, strict=True)
            )
        return Answer(text, reason, len(row.prompt), len(row.written) + row.ended, logprobs=logprobs)


class ChatTemplate:
    """The chat template of a model folder: a conversation to the text of its prompt, as training renders it."""

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "tokenizer_config.json")
        path = folder / "chat_template.jinja"
        self.tokens = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in config.items()
            if name.endswith("_token") and isinstance(value, str | dict)
        }
        try:
            self.template = chat.Template(
                path.read_text("utf-8") if path.exists() else config.get("chat_template"), self.tokens
            )
        except ValueError:
            raise PrerequisiteError(
                f"{folder} has no chat template; add chat_template.jinja, base models often lack one"
            ) from None
        self.system_role = self.template.known_role()

    def render(self, messages: list[dict[str, str]], chat_template_kwargs: dict[str, Any] | None = None) -> str:
        """Return the prompt text, with the beginning of the answer."""
        return self.template.render(chat.in_role(messages, self.system_role), chat_template_kwargs=chat_template_kwargs)


def base_name(model_dir: Path) -> str:
    """Return the name of a base model: its folder's, and for the embedded model one that changes with its weights."""
    if model_dir.resolve() != MODEL_DIR.resolve():
        return model_dir.resolve().name
    return "arislab-tiny-" + hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest()[:8]


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Return a text up to the first of ``stop`` in it, and whether there is one.

    Example:
        >>> cut("Yes. No.", (". ", "No"))
        ('Yes', True)
    """
    places = [text.index(mark) for mark in stop if mark in text]
    return (text[: min(places)], True) if places else (text, False)


def common(a: list[int], b: list[int]) -> int:
    """Return how many tokens two prompts share, at most all but the last of the shorter."""
    most = min(len(a), len(b)) - 1
    return next((i for i in range(most) if a[i] != b[i]), most)


def clusters(rows: list["Row"]) -> Iterator[tuple[int, list["Row"]]]:
    """Yield (length of the common prefix, rows) so that few prompt tokens are read twice and batches stay large."""
    rows = sorted(
        rows, key=lambda row: row.prompt
    )  # neighbours share most: the first and the last of a run share least
    shared = [common(a.prompt, b.prompt) for a, b in pairwise(rows)]
    everywhere = common(rows[0].prompt, rows[-1].prompt)
    cuts = [
        i + 1
        for i, n in enumerate(shared)
        if n + SHARED_TOKENS < max(shared[max(0, i - 1)], shared[min(i + 1, len(shared) - 1)])
    ]
    rest: list[Row] = []
    for begin, end in pairwise([0, *cuts, len(rows)]):
        members = rows[begin:end]
        n_prefix = common(members[0].prompt, members[-1].prompt)
        if len(members) < SHARING_ROWS or n_prefix < everywhere + SHARED_TOKENS:
            rest += members
        else:
            yield n_prefix, members
    if rest:
        yield common(rest[0].prompt, rest[-1].prompt), rest


def batches(rows: list["Row"], n_prefix: int, model: "Layers") -> Iterator[list["Row"]]:
    """Yield rows of similar length in batches that fit into memory."""
    from arislab.tiny.sampling import KEY_VALUE_BYTES

    rows = sorted(rows, key=lambda row: len(row.prompt))
    longest = len(rows[-1].prompt) - n_prefix + max(min(row.limit, EXPECTED_TOKENS) for row in rows)
    size = max(1, min(model.most_rows, KEY_VALUE_BYTES // model.bytes_of(longest, n_prefix)))
    for i in range(0, len(rows), size):
        yield rows[i : i + size]


def _failed(error: str, prompt_tokens: int = 0) -> Answer:
    return Answer("", "", prompt_tokens, 0, error)
