"""What is examined, and whether the client copes where a server deviates. This module asks nothing."""

import polars as pl

COLUMNS = {"check": pl.String, "verdict": pl.String, "seen": pl.String, "client": pl.String, "bridged": pl.Boolean}
CHECKS: dict[str, tuple[bool, str]] = {
    "models are listed": (False, "needs the list: it refuses a model that the server does not name"),
    "no key, no service": (True, "sends its key all the same; whoever reaches this server can read your prompts"),
    "unknown ids give 404": (False, "tells a lost batch by 404; here it would wait and then stop with an error"),
    "direct chat": (True, "asks nothing about schemas: they are checked after the answers came"),
    "response_format": (True, "leaves the schema out of the request; answers are checked against it in any case"),
    "upload": (False, "cannot send anything"),
    "content byte for byte": (False, "cannot know which prompts were answered"),
    "file object": (True, "needs the id only"),
    "expires_after": (True, "collects when a batch ends, not later"),
    "files kept a week": (True, "collects when a batch ends; dialects llm_d and control_layer ask for 30 days"),
    "files are listed": (True, "finds lost creates by batches, not by files"),
    "create": (False, "cannot send anything"),
    "bad creates are refused": (True, "never sends such a create"),
    "metadata is kept": (True, "finds a lost create by the name of its file, else stops rather than pay twice"),
    "Idempotency-Key": (True, "never repeats a create; looks for a lost one in the list"),
    "duplicate custom_id refused": (True, "never writes one id twice; doubled answers are joined or quarantined"),
    "bad JSON refused with its line": (True, "writes valid ASCII JSON only"),
    "wrong url refused": (True, "writes the url of the batch"),
    "stream refused": (True, "never asks for a stream"),
    "statuses are OpenAI's": (True, "maps the words that it knows; any other counts as in progress"),
    "every line comes once": (True, "joins by custom_id; what did not come is asked again, three times at most"),
    "lines have OpenAI's form": (True, "reads this form too"),
    "a failed line is an error": (True, "reads both files, and errors in any of them"),
    "counts add up": (True, "counts lines itself"),
    "usage is reported": (True, "adds up the usage of the lines"),
    "model is the one asked for": (True, "records the model asked for and the one returned"),
    "batches are listed in pages": (True, "cannot look for a lost create: it stops and says so, and never sends twice"),
    "running input is safe": (True, "never deletes the input of a running batch"),
    "cancel keeps what is done": (False, "loses answers that were paid for; do not cancel here"),
    "an ended batch stays ended": (False, "collects once: what changes later is not seen"),
    "openai SDK reads it": (False, "is built on the SDK"),
}
"""check -> whether the client copes if it deviates, and how (or what it costs)."""
