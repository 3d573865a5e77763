"""Labelled pairs of texts: which are exact copies, near-duplicates, or neither; prints one JSON object.

    python tests/bench/duplicate_pairs.py [--texts FILE] [--n 2000] [--threshold 0.8]

FILE is text with a row a line (the last tab-separated column counts), or a Parquet file with a column `output`; without
it the sample outputs that ship with the project. Every text is paired with itself after an invisible change (should be
exact), after a small edit (should be near exactly if the Jaccard index of the words' shingles reaches the threshold),
and after one sign was changed (should be neither): a digit, a point, a minus, an operator, a currency, an emoji that
stands in the text, or that was put into both.
"""

import argparse
import html
import json
import random
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path

import polars as pl

from arislab.duplicates import leaks, normalise

ROOT = Path(__file__).resolve().parents[2]
INVISIBLE = {
    "upper case": str.upper,
    "NFD": lambda t: unicodedata.normalize("NFD", t),
    "zero-width space": lambda t: re.sub(r"(?<=\w)(?=\w)", "\u200b", t, count=3),
    "soft hyphen": lambda t: re.sub(r"(?<=[a-z]{2})(?=[a-z]{2})", "\u00ad", t, count=3),
    "no-break space": lambda t: t.replace(" ", "\u00a0"),
    "white space": lambda t: t.replace(" ", "  "),
    "fullwidth": lambda t: t.translate({i: i + 0xFEE0 for i in range(0x21, 0x7F)}),
    "HTML entities": lambda t: html.escape(t).replace(" ", "&nbsp;"),
    "underscores": lambda t: re.sub(r"(?<=[a-z]) (?=[a-z])", "_", t),
    "byte order mark": lambda t: "\ufeff" + t,
    "emphasis": lambda t: re.sub(r"(?<=[a-z] )([A-Za-z]{3,})(?= [a-z])", r"**\1**", t, count=2),
    "Windows line ends": lambda t: t.replace("\n", "\r\n") + "\r\n",
}
SIGNS = [
    ("7 - 3", "7 + 3"),
    ("-7", "7"),
    ("$5", "€5"),
    ("x^2", "x^3"),
    ("1.5", "15"),
    ("a < b", "a > b"),
    ("🙂", "😡"),
    ("5 %", "5"),
]


def small_edits(text: str, rng: random.Random) -> str:
    """One or two words replaced, dropped or added."""
    words = text.split(" ")
    for _ in range(rng.choice([1, 1, 2])):
        place = rng.randrange(len(words))
        words[place : place + 1] = rng.choice([["another"], [], [words[place], "indeed"]])
    return " ".join(words)


def one_sign(text: str, rng: random.Random) -> tuple[str, str, str]:
    """A text and itself with one sign changed, and what was changed."""
    digits = [m.start() for m in re.finditer(r"\d", text)]
    if digits and rng.random() < 0.5:
        at = rng.choice(digits)
        other = rng.choice([d for d in "123456789" if d != text[at]])
        in_word = re.search(r"[^\W\d_][\w]*\Z", text[:at])  # H2O, B12
        return text, text[:at] + other + text[at + 1 :], "a digit in a word" if in_word else "a digit of a number"
    a, b = rng.choice(SIGNS)
    words = text.split(" ")
    place = rng.randrange(len(words) + 1)
    return *(" ".join([*words[:place], sign, *words[place:]]) for sign in (a, b)), f"{a} | {b}"


def index(a: str, b: str) -> float:
    """Jaccard index of the 3-word shingles of two normal forms."""
    sets = []
    for text in (a, b):
        words = normalise(text).split()
        sets.append({tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def signs(text: str) -> Counter[str]:
    """The signs, numbers and names with a number of a normal form."""
    return Counter(w for w in normalise(text).split() if not w[0].isalpha() or re.search("[0-9]", w))


def kinds(pairs: list[tuple[str, str]], threshold: float) -> list[str]:
    """What `leaks` says of each pair: exact, near or none."""
    answers = []
    for a, b in pairs:
        test, used = (
            pl.DataFrame({"id": [n], "candidate_id": [n], "group_id": [n], "text": [t]})
            for n, t in (("a", a), ("b", b))
        )
        answers.append(next(iter(leaks(test, used, threshold=threshold)["kind"]), "none"))
    return answers


def main() -> None:
    """Make the pairs, ask, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=ROOT / "data" / "sample" / "outputs.jsonl")
    parser.add_argument("--n", type=int, default=2_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()
    started, rng = time.perf_counter(), random.Random(0)
    if options.texts.suffix == ".parquet":
        texts = pl.read_parquet(options.texts, columns=["output"])["output"].drop_nulls().to_list()
    elif options.texts.suffix == ".jsonl":
        texts = [json.loads(line)["answer"] for line in options.texts.read_text(encoding="utf-8").splitlines()]
    else:
        texts = [line.split("\t")[-1] for line in options.texts.read_text(encoding="utf-8").splitlines()]
    texts = sorted({t for t in texts if len(t.split()) >= 8})
    texts = rng.sample(texts, min(options.n, len(texts)))
    report: dict[str, object] = {"texts": len(texts), "words": sum(len(t.split()) for t in texts) // len(texts)}
    invisible = {}
    for name, change in INVISIBLE.items():
        pairs = [(t, change(t)) for t in texts[: len(texts) // 4] if change(t) != t]
        invisible[name] = [sum(k == "exact" for k in kinds(pairs, options.threshold)), len(pairs)]
    edited = [(t, small_edits(t, rng)) for t in texts]
    should = [index(a, b) >= options.threshold and signs(a) == signs(b) for a, b in edited]
    did = [kind != "none" for kind in kinds(edited, options.threshold)]
    changed = [one_sign(t, rng) for t in texts]
    wrong = Counter(
        what
        for (_, _, what), kind in zip(changed, kinds([(a, b) for a, b, _ in changed], options.threshold), strict=True)
        if kind != "none"
    )
    report |= {
        "invisible_exact": invisible,
        "small_edits": len(edited),
        "small_edits_at_the_threshold": sum(should),
        "recall_at_the_threshold": sum(a and b for a, b in zip(should, did, strict=True)) / max(1, sum(should)),
        "near_below_the_threshold": sum(b and not a for a, b in zip(should, did, strict=True)),
        "one_sign": len(changed),
        "one_sign_by_kind": dict(Counter(what for _, _, what in changed)),
        "one_sign_called_near_or_exact": dict(wrong),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
