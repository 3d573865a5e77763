"""Any instruction to free text, judged by rules alone: no model, no reference answer.

What these rules can see: refusals, answers cut short, loops, echoes of the question, answers that ignore its words or barely say
anything. What they cannot see: whether an answer is true. Use it to drop the worst, and put a judge or people on the rest.
"""

import math
import re
from functools import lru_cache

SYSTEM = ""

_REFUSAL = re.compile(
    r"\b(as an ai|as a language model|i'?m sorry,? but|i apologi[sz]e,? but|i am unable to|i'?m unable to|i can(?:not|'t) "
    r"(?:help|assist|provide|answer|fulfil|browse|access)|i do not have (?:the ability|access)|i don'?t have (?:the ability|access))",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9']+")
_STOP = frozenset(
    [
        "about",
        "above",
        "after",
        "again",
        "also",
        "been",
        "before",
        "being",
        "between",
        "both",
        "could",
        "does",
        "doing",
        "down",
        "during",
        "each",
        "from",
        "have",
        "having",
        "here",
        "into",
        "just",
        "like",
        "make",
        "more",
        "most",
        "much",
        "need",
        "only",
        "other",
        "over",
        "same",
        "should",
        "some",
        "such",
        "than",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "under",
        "until",
        "very",
        "want",
        "what",
        "when",
        "where",
        "which",
        "while",
        "will",
        "with",
        "would",
        "your",
        "please",
        "give",
        "write",
        "tell",
        "using",
        "used",
    ]
)


def to_messages(candidate):
    """Write the chat messages for one candidate; its profile is {"input": the instruction}, with "messages" if it was a conversation."""
    if "messages" in candidate["profile"]:
        return candidate["profile"]["messages"]
    system = [{"role": "system", "content": SYSTEM}] if SYSTEM else []
    return [*system, {"role": "user", "content": candidate["profile"]["input"]}]


@lru_cache(maxsize=2)
def words(text):
    """Lower-case words of a text; kept for the next scorer."""
    return _WORD.findall(text.lower())


def answers(output):
    """No refusal within the first 300 characters."""
    return not _REFUSAL.search(output[:300])


def complete(output):
    """Ends like a finished text, and every code block is closed."""
    text = output.rstrip()
    if not text or text.count("```") % 2:
        return 0.0
    return 1.0 if text[-1] in ".!?)]}\"'`:*|>0123456789”’。" else 0.5


def no_loop(output):
    """Share of 4-word runs that are not repeats; a looping model scores near 0."""
    run = words(output)
    if len(run) < 8:
        return 1.0
    grams = list(zip(run, run[1:], run[2:], run[3:], strict=False))
    return min(1.0, len(set(grams)) / len(grams) / 0.9)


def not_an_echo(input, output):
    """Share of the answer's 4-word runs that do not stand in the question; a task such as proofreading may repeat half."""
    run, asked = words(output), words(input)
    if len(run) < 4:
        return 1.0
    grams = set(zip(run, run[1:], run[2:], run[3:], strict=False))
    seen = set(zip(asked, asked[1:], asked[2:], asked[3:], strict=False))
    return min(1.0, 2 * (1 - len(grams & seen) / len(grams)))


def on_topic(input, output):
    """Share of the question's content words that the answer takes up, half of them being enough; null without any."""
    asked = {w[:5] for w in words(input) if len(w) > 3 and w not in _STOP}
    if not asked:
        return None
    said = {w[:5] for w in words(output)}
    return min(1.0, len(asked & said) / len(asked) / 0.5)


def developed(output):
    """Grows with the logarithm of the length, from 0 at 5 words to 1 at 300."""
    n = len(words(output))
    return min(1.0, max(0.0, math.log(max(n, 1) / 5) / math.log(300 / 5)))


def structured(output):
    """Long answers with paragraphs or lists are easier to use; short ones need none (null)."""
    if len(words(output)) < 120:
        return None
    breaks = output.count("\n\n") + len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", output, re.MULTILINE))
    return min(1.0, breaks / 3)


SCORERS = {f.__name__: f for f in (answers, complete, no_loop, not_an_echo, on_topic, developed, structured)}
WEIGHTS = {
    "answers": 0.2,
    "complete": 0.1,
    "no_loop": 0.1,
    "not_an_echo": 0.1,
    "on_topic": 0.15,
    "developed": 0.25,
    "structured": 0.1,
}


def difficulty(candidate):
    """Length of the instruction, from 0 at 5 words to 1 at 200."""
    n = len(words(candidate["profile"]["input"]))
    return min(1.0, max(0.0, math.log(max(n, 1) / 5) / math.log(200 / 5)))


_STEPS = (
    "Fill the kettle with fresh cold water and bring it to a full boil, because tea leaves open best in water that has just boiled.",
    "Warm the pot: swirl a little of the hot water around inside, then pour it away so that the brewing temperature does not drop.",
    "Add one rounded spoon of loose leaves for every cup you plan to serve, plus one extra spoon if your guests prefer a strong taste.",
    "Pour the boiling water over the leaves, put on the lid, and let everything stand for three to five minutes without stirring.",
    "Set out cups, a strainer, cold milk, sugar and thin slices of lemon, so each person can finish the drink to their own liking.",
    "Pour through the strainer, tasting the first cup yourself; if it seems weak, give the remaining leaves another minute in the pot.",
    "Green and white kinds dislike boiling heat: wait until bubbles settle, around eighty degrees, and shorten brewing to two minutes.",
    "Herbal blends behave differently, since dried flowers and roots release flavour slowly; seven minutes under a lid is about right.",
    "Store what is left of the packet in an airtight tin away from light, spices and steam, where good leaves stay fragrant for months.",
    "Rinse the pot with plain hot water only, as soap clings to the glaze and spoils the next brew; a monthly soda bath removes stains.",
    "When serving a crowd, brew a concentrate beforehand, double strength, then dilute it half and half with hot water at the table.",
    "For iced glasses, cool that concentrate quickly, fill tall tumblers with plenty of ice, pour slowly, add mint, and serve at once.",
    "Small details matter too: filtered water tastes cleaner wherever taps run hard, and thin porcelain keeps lips from burning early.",
    "Finally relax, chat a little while it brews, and remember that nobody measures hospitality by seconds or grams but by warm company.",
)
GOLD = [
    {
        "input": "Explain how to brew tea for several guests.",
        "output": "\n\n".join(f"{i}. {s}" for i, s in enumerate(_STEPS, 1)),
    }
]
BAD = [
    {"input": "Explain how to brew tea for guests.", "output": "I'm sorry, but I cannot help with that."},
    {
        "input": "Explain how to brew tea for guests.",
        "output": "Tea tea tea tea tea tea tea tea tea tea tea tea tea tea tea tea tea",
    },
    {"input": "Explain how to brew tea for guests.", "output": "Explain how to brew tea for guests."},
    {"input": "Explain how to brew tea for guests.", "output": "Boil the water and then"},
    {"input": "Explain how to brew tea for guests.", "output": "ok"},
    {"input": "Explain how to brew tea for guests.", "output": " ".join(_STEPS)},
]
