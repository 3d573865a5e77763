"""An engine that answers with the question, for tests."""

import asyncio
from collections.abc import Sequence

from arislab.server.engines.base import CHAT, Emit, Request, Result, completion, generation
from arislab.server.gate import Gate


class EchoEngine:
    """Answers with the last user message, for tests.

    Args:
        delay_s: seconds that each line takes; four chunks of eight lines run at once.
    """

    name, endpoints, response_format = "echo", frozenset({CHAT}), False
    takes_any_model = True
    chunk_lines, whole_chunks = 8, False

    def __init__(self, delay_s: float = 0.0):
        self.gate, self._delay_s = Gate(4), delay_s

    async def start(self) -> None:
        """Nothing to load."""

    async def loaded(self) -> None:
        """Nothing to wait for."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def models(self) -> list[str]:
        """One name; any other is answered too."""
        return ["echo"]

    async def run(self, chunk: Sequence[Request], emit: Emit) -> None:
        """Answer one line after the other."""
        for request in chunk:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            emit(echo(request))


def echo(request: Request) -> Result:
    """The last user message; a token is a word."""
    job = generation(request, takes_others=True)
    if isinstance(job, Result):
        return job
    users = [message["content"] for message in job["messages"] if message["role"] == "user"]
    text = users[-1] if users else ""
    n_prompt = sum(len(message["content"].split()) for message in job["messages"])
    answer = {"model": job["model"], "text": text, "finish_reason": "stop"}
    return completion(request, **answer, prompt_tokens=n_prompt, completion_tokens=len(text.split()))
