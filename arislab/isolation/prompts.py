"""What is asked to find out whether a server mixes models: frozen prompts, answered greedily.

This module does not know what is made of the answers.
"""

from typing import Any

PROMPTS = tuple(
    """Tell me about the sea.
What is 17 + 25?
Write one sentence about a dog.
Name three colours.
Candidate: worked 7 years as a nurse, speaks Polish. Minimum: 5 years. What do you think of the candidate?
Why is the sky blue?
Continue: Once upon a time
Is a tomato a fruit? Give a reason.
List the days of the week.
Translate into French: good morning.
Answer in JSON: which city is the capital of Italy?
Describe your work in a few words.
Write a title for a story about rain.
What do you do on a Sunday?
Summarise: The meeting was moved from Monday to Thursday because the room was taken.
Give advice to somebody who has slept badly.
Candidate: a cook with 2 years of experience who wants to lead a kitchen of 20. Score the candidate from 0 to 1.
Which is larger, 0.9 or 0.11?
Write a short poem about iron.
What is missing: red, green, …
Explain what a contract is.
Who are you?
Say something kind.
What would you pack for a week in the mountains?
Write a line of Python that adds two numbers.
Reply to this letter: Dear team, my parcel has not arrived.
Compare tea and coffee.
Name an animal that starts with K.
What happened in 1969?
Candidate: no experience, learns fast. The job: driver of a bus. Hire or not?
Give the opposite of: early, full, kind.
Repeat after me: blue horses run.""".splitlines()
)
"""Frozen: the same for every server and every time, so that results can be compared."""
N_FIRST, SHORT, LONG = 12, 24, 64
"""Prompts of the first try and tokens of their answers; where models answer those alike, the others are asked with
longer answers."""


def body(model: str, prompt: int, *, max_tokens: int = SHORT) -> dict[str, Any]:
    """Return the chat request for a frozen prompt."""
    messages = [{"role": "user", "content": PROMPTS[prompt]}]
    return {"model": model, "messages": messages, "temperature": 0, "seed": 1, "max_tokens": max_tokens}


def text_of(answer: Any) -> str | None:
    """Return what a chat completion says, with what it thought; null if it is none."""
    try:
        message = answer["choices"][0]["message"]
        parts = [message.get(name) for name in ("reasoning", "reasoning_content", "content")]
    except (LookupError, TypeError, AttributeError):
        return None
    return "\n".join(part for part in parts if isinstance(part, str))
