"""Any instruction to free text, judged by rules alone: no model, no reference answer.

What these rules can see: refusals, answers cut short, loops, echoes of the question, answers that ignore its words or
barely say anything. What they cannot see: whether an answer is true. Use it to drop the worst, and put a judge or
people on the rest.

Other scripts are judged by the same rules: where words are not separated by spaces, by characters. What only English
can be seen by (refusals, words that say nothing) is null there, and so is the full stop where a script has none.
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
# beyond ASCII a word is what stands between spaces and punctuation, which spares the vowel signs of Indic scripts
_ANY_WORD = re.compile(
    r"[^\s!-&(-/:-@\[-`{-~\u00a1\u00ab\u00b7\u00bb\u00bf\u0387\u05be\u060c\u061b\u061f\u06d4\u0964\u0965\u104a\u104b\u17d4-\u17da"
    r"\u2000-\u206f\u3000-\u3004\u3008-\u303f\u30fb\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)
_IDEOGRAPHIC = "\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ALPHABETIC = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer: written without spaces too
_UNSPACED = re.compile(f"[{_IDEOGRAPHIC}{_ALPHABETIC}]|[^{_IDEOGRAPHIC}{_ALPHABETIC}]+")
_PER_WORD = ((re.compile(f"[{_IDEOGRAPHIC}]"), 2), (re.compile(f"[{_ALPHABETIC}]"), 4))  # characters that a word takes
_ENDS = frozenset(".!?)]}\"'`:*|>0123456789”’。！？…؟۔।॥။។៕։」』）】》»›")
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
    """Write the chat messages for one candidate; its profile is {"input".

    The instruction}, with "messages" if it was a conversation.
    """
    if "messages" in candidate["profile"]:
        return candidate["profile"]["messages"]
    system = [{"role": "system", "content": SYSTEM}] if SYSTEM else []
    return [*system, {"role": "user", "content": candidate["profile"]["input"]}]


@lru_cache(maxsize=2)
def words(text):
    """Lower-case words of a text, single characters where a script does not separate words.

    Kept for the next scorer.
    """
    if text.isascii():
        return _WORD.findall(text.lower())
    return [part for word in _ANY_WORD.findall(text.lower()) for part in _UNSPACED.findall(word)]


@lru_cache(maxsize=2)
def n_words(text):
    """How many words a text has; where they are not separated, about as many as its characters would make."""
    if text.isascii():
        return len(words(text))
    units = {unit: 1 / n for pattern, n in _PER_WORD for unit in set(words(text)) if pattern.match(unit)}
    return round(sum(units.get(word, 1) for word in words(text)))


def runs(text, size):
    """All runs of `size` neighbouring words of a text."""
    run = words(text)
    return list(zip(*(run[i:] for i in range(size)), strict=False))


def run_size(text):
    """How many units make four words."""
    return max(4, round(4 * len(words(text)) / max(1, n_words(text))))


@lru_cache(maxsize=2)
def latin(text):
    """Whether a text is mostly written in the script that the English rules know."""
    letters = [c for c in text if c.isalpha()]
    return text.isascii() or sum(c < "\u0250" for c in letters) > len(letters) / 2


def answers(output):
    """No refusal within the first 300 characters; null in other scripts, whose refusals it does not know."""
    return not _REFUSAL.search(output[:300]) if latin(output) else None


def complete(output):
    """Ends like a finished text, and every code block is closed; null for a letter of a script without full stops."""
    text = output.rstrip()
    if not text or text.count("```") % 2:
        return 0.0
    if "\u0e00" <= text[-1] <= "\u0eff":  # Thai and Lao
        return None
    return 1.0 if text[-1] in _ENDS or text[-1].isdigit() else 0.5


def no_loop(output):
    """Share of 4-word runs that are not repeats; a looping model scores near 0."""
    if n_words(output) < 8:
        return 1.0
    grams = runs(output, run_size(output))
    return min(1.0, len(set(grams)) / max(1, len(grams)) / 0.9)


def not_an_echo(input, output):
    """Share of the answer's 4-word runs that do not stand in the question.

    A task such as proofreading may repeat half.
    """
    grams = set(runs(output, run_size(output)))
    if not grams:
        return 1.0
    return min(1.0, 2 * (1 - len(grams & set(runs(input, run_size(output)))) / len(grams)))


def on_topic(input, output):
    """Share of the question's content words that the answer takes up, half of them being enough; null without any."""
    if not (latin(input) and latin(output)):
        return None
    asked = {w[:5] for w in words(input) if len(w) > 3 and w not in _STOP}
    if not asked:
        return None
    said = {w[:5] for w in words(output)}
    return min(1.0, len(asked & said) / len(asked) / 0.5)


def developed(output):
    """Grows with the logarithm of the length, from 0 at 5 words to 1 at 300."""
    return min(1.0, max(0.0, math.log(max(n_words(output), 1) / 5) / math.log(300 / 5)))


def structured(output):
    """Long answers with paragraphs or lists are easier to use; short ones need none (null)."""
    if n_words(output) < 120:
        return None
    breaks = output.count("\n\n") + len(re.findall(r"^\s*(?:[-*•・]\s|\d+(?:[.)]\s|[、．]))", output, re.MULTILINE))
    return min(1.0, breaks / 3)


SCORERS = {f.__name__: f for f in (answers, complete, no_loop, not_an_echo, on_topic, developed, structured)}
# what a judge is asked, a criterion a request (judge.ipynb); its scores vote where WEIGHTS names judge_<name>
RUBRIC = {
    "correct": "What the answer says is true, and what it works out is right.",
    "follows": "The answer does all that was asked, in the form that was asked for, and nothing else.",
    "helpful": "Somebody who asked this would be helped by the answer as it stands.",
}
# what people are asked (review.ipynb): the first nine labels are reasons to reject, by their number
REVIEW = {
    "labels": ["wrong", "not what was asked", "left out", "too long", "unsafe", "bad form"],
    "ratings": {"difficulty": "1: anybody knows it; 5: an expert must think"},
    "guideline": """
Would you be glad of this answer, had you asked?

- **Approve** what is right, complete, and does what was asked in the form that was asked for.
- **Edit** what is a small correction away from it.
- **Reject** what is wrong, evades the question, or says things that nobody asked for.
- **Skip** what you cannot judge; **flag** what the lead should see.
""",
}

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
    n = n_words(candidate["profile"]["input"])
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
