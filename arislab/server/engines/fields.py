"""Fields of a chat request that an engine of arislab's own cannot honour, and the values that ask for nothing.

Clients and SDKs send defaults along (``n: 1``, ``presence_penalty: 0``): those are fine. A value that would change the
answer, and a field that nobody here knows, are refused by name: an answer that was sampled otherwise than was asked
looks like any other.
"""

from collections.abc import Collection, Mapping
from typing import Any

ONE_ANSWER: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}
"""Field -> the values, beside null, that ask for nothing: one whole plain text is all that the engine of tests gives,
too."""
SAMPLING: dict[str, tuple[Any, ...]] = {
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
    "stream_options": (),
}
"""The same for what only a model has."""
LABELS = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "priority", "request_id")
)
"""Fields that say something about the request and nothing about its answer."""


def unsupported(
    body: Mapping[str, Any], taken: Collection[str], *, takes_others: bool = False
) -> tuple[str, Any] | None:
    """Return name and value of the first field that asks for what the engine does not do; None: none does.

    Args:
        body: Of the request.
        taken: Fields that the engine reads.
        takes_others: Only what would make another kind of answer counts (``ONE_ANSWER``).
    """
    nothing = ONE_ANSWER if takes_others else ONE_ANSWER | SAMPLING
    for name, value in body.items():
        if name in taken or value is None or value in nothing.get(name, ()):
            continue
        if name in nothing or not (takes_others or name in LABELS):
            return name, value
    messages = body.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) and not takes_others else []):
        for name, value in message.items() if isinstance(message, dict) else ():
            if name not in ("role", "content") and value not in (None, "", []):
                return f"messages.{i}.{name}", value
    return None


def refusal(name: str, value: Any, taken: Collection[str]) -> str:
    """Return the message about a field that is not supported."""
    nothing = (ONE_ANSWER | SAMPLING).get(name)
    given = f"{name}: this engine does not read it, got {str(value)[:60]!r}"
    allowed = f"; it may be {' or '.join(['null', *map(repr, nothing)])}" if nothing else ""
    return (
        f"{given}{allowed}. Supported are {', '.join(sorted(taken))}, and role and content of a message. Leave the "
        "field out, or serve the model with vLLM (--vllm, or --upstream with its URL)"
    )
