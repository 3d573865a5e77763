"""The chat template of a base model, judged as a whole before anything is read or trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arislab import chat
from arislab.errors import PrerequisiteError
from arislab.finetune.conversations import Refused
from arislab.finetune.renderer import QUESTION, SWITCHES, Renderer
from arislab.finetune.weights import load_tokenizer, resolve_model


@dataclass(frozen=True)
class ChatTemplate:
    """What a model's chat template asks of training and serving. Shown by phase 4 before it trains."""

    name: str
    """The model's folder."""
    system_role: str
    """Where instructions stand, see ``chat.SYSTEM_ROLES``."""
    chat_template_kwargs: Mapping[str, Any]
    """What it is rendered with, in training and in requests; a date that it can be told is among them."""
    stop_token: str
    """Ends each answer."""
    writes_tools: bool
    """Whether calls of tools can be trained."""
    notes: tuple[str, ...]
    """What is unusual about it, in words."""

    def __repr__(self) -> str:
        settings = f", rendered with {dict(self.chat_template_kwargs)}" if self.chat_template_kwargs else ""
        return "\n".join(
            [f"{self.name}: answers end with {self.stop_token!r}{settings}", *(f"- {note}" for note in self.notes)]
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What ``batch.build_requests`` needs to ask as is trained."""
        return chat.fields(chat_template_kwargs=self.chat_template_kwargs, system_role=self.system_role)


def check_template(model: Any, *, chat_template_kwargs: Mapping[str, Any] | None = None) -> ChatTemplate:
    """Judge the chat template of a model before anything is trained.

    Args:
        model: A model's folder or name, or a loaded tokenizer.
        chat_template_kwargs: As in ``tokenize``.

    Raises:
        PrerequisiteError: There is no chat template, or none that a server and training could share; the message says
            what to do.
        ParameterError: ``chat_template_kwargs`` holds what the template does not read.
    """
    renderer = Renderer(load_tokenizer(model), dict(chat_template_kwargs or {}))
    try:
        turn = renderer.turn(QUESTION, None)
    except Refused as refused:
        raise PrerequisiteError(f"{renderer.name} cannot be trained: {refused.args[1]}.") from None
    # who says `enable_thinking: true` has been told, and means answers that hold their reasoning
    is_meant = any(renderer.given.get(name) is True for switch in SWITCHES for name in switch)
    if turn.needs_reasoning and not is_meant:
        raise PrerequisiteError(f"{renderer.name} cannot be trained as it is: {turn.needs_reasoning}.")
    if isinstance(model, str | Path):
        _check_stop(renderer, turn.stop, resolve_model(model))
    notes = [turn.note] if turn.note else []
    if turn.needs_reasoning:
        notes.append("only answers that hold their own reasoning are trained")
    if renderer.system_role == "user":
        notes.append("no system role: the instructions stand before the first question, in training and in requests")
    if chat.DATE in renderer.kwargs and chat.DATE not in renderer.given:
        notes.append(
            f"writes the date: told {renderer.kwargs[chat.DATE]!r} in training and in requests, so that every day "
            "gives the same tokens"
        )
    elif renderer.is_dated:
        notes.append(
            f"writes the date of the clock: {chat.DAY} is trained, and asked by the embedded server; another server "
            "writes its own day"
        )
    kwargs, writes_tools = renderer.kwargs, _writes_tools(renderer)
    return ChatTemplate(renderer.name, renderer.system_role, kwargs, turn.stop, writes_tools, tuple(notes))


def _check_stop(renderer: Renderer, stop: str, folder: Path) -> None:
    """Refuse a stop token at which servers would not stop."""
    configs = [folder / name for name in ("config.json", "generation_config.json") if (folder / name).exists()]
    given = [json.loads(path.read_text("utf-8")).get("eos_token_id") for path in configs]
    own: Any = next((ids for ids in reversed(given) if ids is not None), [])  # of the generation config, if there
    ends = {renderer.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    number = renderer.tokenizer.convert_tokens_to_ids(stop)
    if number not in ends:
        known = sorted(end for end in ends if end is not None)
        raise PrerequisiteError(
            f"{renderer.name} cannot be trained as it is: its chat template ends answers with {stop!r} (id {number}), "
            f"and servers stop at {known} only, so that answers would never end; add {number} to eos_token_id in "
            "generation_config.json of the folder."
        )


def _writes_tools(renderer: Renderer) -> bool:
    """Whether a call comes out of the template as one; many leave it out without a word."""
    # an id of nine letters and digits: Mistral's templates refuse any other
    call = {"id": "call00001", "type": "function", "function": {"name": "q9look", "arguments": {"word": "x"}}}
    parameters = {"type": "object", "properties": {}}
    function = {"name": "q9look", "description": "x", "parameters": parameters}
    try:
        renderer.call(QUESTION, "", [call], [{"type": "function", "function": function}])
    except Refused:
        return False
    return True
