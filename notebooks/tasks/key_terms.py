"""Task: list the knowledge that a sentence of a job ad names: tools, fields, languages, degrees.

Experts marked these terms in real ads (SkillSpan, data/README.md); their marks are the reference answer, `gold`. A
candidate is a sentence; its profile is

    {"id": "train-7", "ad": "tech-train-1", "text": "Experience with Java or Kotlin .", "gold": ["Java", "Kotlin"]}

A small model chats about the sentence instead. Shown the five made-up answers of `key_terms.jsonl` it lists terms, so
phase 1 may show them (`-p examples tasks/key_terms.jsonl`); training and evaluation do without.

Phases 2 to 4 choose by SCORERS, phase 5 judges by REPORT: whole terms instead of words, so that what was selected for
is not what is reported.
"""

import re

# ---- what we ask

SYSTEM = "You copy key terms from a text. Reply with a short comma-separated list."


def to_messages(candidate):
    """Write the chat about a sentence; the reference answer stays out of it."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Key terms of: {candidate['profile']['text']}"},
    ]


# ---- how an answer is read


def words(text):
    """Lower-case words, C++ and C# among them."""
    return re.findall(r"\w[\w+#]*", text.lower())


def terms(text):
    """What stands between the commas, each as its words without articles: "the Java, a B.Sc." is java and b sc."""
    items = [" ".join(word for word in words(item) if word not in ("a", "an", "the")) for item in text.split(",")]
    return [item for item in items if item]


def f1(said, wanted):
    """Harmonic mean of precision and recall of one list beside another; what is said twice counts twice."""
    left, hits = list(wanted), 0
    for one in said:
        if one in left:
            left.remove(one)
            hits += 1
    return 2 * hits / (len(said) + len(wanted)) if said and wanted else 0.0


# ---- what is good: a scorer's parameter names are columns


def right_words(output, profile, gold):
    """F1 of the words beside those of the experts' terms, on a scale on which copying the whole sentence gets 0.

    Without that scale the copy, in pieces between commas, would get 0.46 here and everything from the other two.
    """
    wanted = words(", ".join(gold))
    right, copy = f1(words(output), wanted), f1(words(profile["text"]), wanted)
    return max(0.0, (right - copy) / (1 - copy)) if copy < 1 else right


def copied(output, profile):
    """Share of the terms that stand in the sentence, word for word, and have at most five words."""
    sentence = f" {' '.join(words(profile['text']))} "
    items = [words(item) for item in output.split(",") if words(item)]
    return sum(len(item) <= 5 and f" {' '.join(item)} " in sentence for item in items) / len(items) if items else 0.0


def listed(output):
    """One line of one to eight different terms of at most five words: a list, not a sentence."""
    said = terms(output)
    short = all(len(item.split()) <= 5 for item in said)
    return short and 1 <= len(said) <= 8 and len(set(said)) == len(said) and "\n" not in output.strip()


SCORERS = {"right_words": right_words, "copied": copied, "listed": listed}
WEIGHTS = {"right_words": 0.7, "copied": 0.15, "listed": 0.15}


# ---- what phase 5 judges by, and no earlier phase sees


def right_terms(output, gold):
    """F1 of whole terms beside the experts': half a term is none."""
    return f1(terms(output), [term for one in gold for term in terms(one)])


REPORT = {"right_terms": right_terms}


# ---- examples that keep the scorers honest: gold gets 1.0 from each, bad names the scorer that must see it

_AD = {
    "profile": {"text": "Experience with Java or Kotlin and a degree in Computer Science ."},
    "gold": ["Java", "Kotlin", "degree in Computer Science"],
}
GOLD = [{**_AD, "output": "Java, Kotlin, degree in Computer Science"}]
BAD = [
    {**_AD, "output": "Java, Kotlin", "breaks": "right_words"},
    {**_AD, "output": "Java, Kotlin, degree in Computing Science", "breaks": "copied"},
    {**_AD, "output": _AD["profile"]["text"], "breaks": "listed"},
    {**_AD, "output": "Java, Kotlin, Java, degree in Computer Science", "breaks": "listed"},
    {**_AD, "output": "", "breaks": "right_words"},
]
