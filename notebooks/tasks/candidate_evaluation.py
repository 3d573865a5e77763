"""Task: judge how well a candidate fits a role, as JSON with strengths, concerns, summary, score and recommendation.

This file is the one place for what we ask and for what is good; copy it, and change it, for a task of your own.
It needs only the standard library. A candidate is a row of the table `candidates`; its profile is

    {"title": "Web Developer", "years": 6, "skills": ["Kafka", "SQL", "Vue"],
     "role": "Database Architect", "needs": ["SQL", "Rust"], "min_years": 4}
"""

import json
import re
from functools import lru_cache

# ---- what we ask

SYSTEM = "Evaluate the candidate for the role. Reply with one JSON object."

SCHEMA = {
    "type": "object",
    "properties": {
        "strengths": {"type": "array", "items": {"type": "string"}},
        "concerns": {"type": "array", "items": {"type": "string"}},
        "summary": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "recommendation": {"enum": ["hire", "interview", "reject"]},
    },
    "required": ["strengths", "concerns", "summary", "score", "recommendation"],
    "additionalProperties": False,
}


def to_messages(candidate):
    """Write the chat about a candidate. The embedded model knows this wording and no other."""
    profile = candidate["profile"]
    needs = [f"{need} {'yes' if need in profile['skills'] else 'no'}" for need in profile["needs"]]
    user = (
        f"Title: {profile['title']}\n"
        f"Experience: {profile['years']} years\n"
        f"Skills: {', '.join(profile['skills'])}\n"
        f"Role: {profile['role']}\n"
        f"Needs: {', '.join(needs)}\n"
        f"Minimum: {profile['min_years']} years"
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


# ---- the rubric


def met(profile):
    """The needs that the skills meet."""
    return [need for need in profile["needs"] if need in profile["skills"]]


def missing(profile):
    """The needs that the skills do not meet."""
    return [need for need in profile["needs"] if need not in profile["skills"]]


def fit(profile):
    """The score that the rubric gives: mostly the share of needs met, then the years against the minimum."""
    years = min(1.0, profile["years"] / profile["min_years"])
    return 0.15 + 0.55 * len(met(profile)) / len(profile["needs"]) + 0.30 * years


def recommended(score):
    """What follows from a score."""
    return "hire" if score >= 0.75 else "interview" if score >= 0.5 else "reject"


# ---- reading an answer

FIELDS = {"strengths": list, "concerns": list, "summary": str, "score": (int, float), "recommendation": str}


@lru_cache(maxsize=4096)
def read(output):
    """The fields of right type in an answer; None if it is not one JSON object. Nothing is repaired."""
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    return {
        name: answer[name]
        for name, kind in FIELDS.items()
        if isinstance(answer.get(name), kind) and not isinstance(answer[name], bool)
    }


def field(output, name):
    """One field of an answer, or None."""
    return (read(output) or {}).get(name)


def names(text, profile):
    """The skills that a phrase names, also foreign ones: words with a capital letter, and known words without."""
    known, text = {*profile["skills"], *profile["needs"]}, str(text).replace(profile["title"], "")
    words = re.findall(r"[^\W\d_]+", text)
    spelt = {skill for skill in known if not skill.isascii() and skill in text}  # no script but ours is cut into words
    return spelt | {w for i, w in enumerate(words) if w in known or (i > 0 and w.isascii() and w != w.lower())}


def years(text):
    """The numbers of years that a phrase names."""
    return {int(number) for number in re.findall(r"(\d+) years", str(text))}


# ---- what is good: each scorer gives 0..1, and its parameter names are columns


def valid_json(output):
    """One JSON object and nothing else."""
    return read(output) is not None


def fields(output):
    """Share of the five fields that are there with the right type."""
    return len(read(output) or ()) / len(FIELDS)


def score_in_range(output):
    """The score lies between 0 and 1, not on a scale of its own."""
    score = field(output, "score")
    return score is not None and 0 <= score <= 1


def recommendation_consistent(output):
    """The recommendation is what the answer's own score calls for."""
    return score_in_range(output) and field(output, "recommendation") == recommended(field(output, "score"))


def calibrated(output, profile):
    """The score is the rubric's: 1 within 0.03 of it, 0 from 0.20 on."""
    if not score_in_range(output):
        return 0.0
    distance = abs(field(output, "score") - fit(profile))
    return max(0.0, min(1.0, 1 - (distance - 0.03) / 0.17))


def strengths_grounded(output, profile):
    """Share of strengths that say something true of the profile, times how much of it they cover (three facts do)."""
    strengths = field(output, "strengths")
    if not strengths:
        return 0.0
    true, covered = set(), set()
    for strength in map(str, strengths):
        said, number = names(strength, profile), years(strength)
        facts = said | ({"years"} if number else set()) | ({"title"} if profile["title"] in strength else set())
        if facts and said <= set(profile["skills"]) and number <= {profile["years"]}:
            true.add(strength)
            covered |= facts
    return len(true) / len(strengths) * min(1.0, len(covered) / min(3, len(met(profile)) + 1))


def concerns_grounded(output, profile):
    """Share of real concerns that are named, times the share of named concerns that are real."""
    concerns = field(output, "concerns")
    if concerns is None:
        return 0.0
    short = profile["years"] < profile["min_years"]
    real = {*missing(profile)} | ({"years"} if short else set())
    named, right = set(), 0
    for concern in concerns:
        said, number = names(concern, profile), years(concern)
        if (
            said <= real
            and (said or number)
            and number <= ({profile["years"], profile["min_years"]} if short else set())
        ):
            right += 1
            named |= said | ({"years"} if number else set())
    recall = len(named) / len(real) if real else 1.0
    return recall * (right / len(concerns) if concerns else 1.0)


def summary_true(output, profile):
    """A third each for the right title, the right years and the right number of needs met."""
    summary = field(output, "summary") or ""
    counted = re.search(r"(\d+) of (\d+)", summary)
    right = [
        profile["title"] in summary,
        years(summary) == {profile["years"]},
        counted is not None and counted.groups() == (str(len(met(profile))), str(len(profile["needs"]))),
    ]
    return sum(right) / 3


def no_contradiction(output, profile):
    """No concern about what the profile has, and nothing that is both a strength and a concern."""
    strengths, concerns = field(output, "strengths"), field(output, "concerns")
    if strengths is None or concerns is None:
        return 0.0
    praised = {name for strength in strengths for name in names(strength, profile)}
    blamed = {name for concern in concerns for name in names(concern, profile)}
    return not blamed & (praised | set(profile["skills"]))


def length(output):
    """A summary of 5 to 20 words, in an answer of 80 to 450 characters."""
    return 5 <= len((field(output, "summary") or "").split()) <= 20 and 80 <= len(output) <= 450


SCORERS = {
    "valid_json": valid_json,
    "fields": fields,
    "score_in_range": score_in_range,
    "recommendation_consistent": recommendation_consistent,
    "calibrated": calibrated,
    "strengths_grounded": strengths_grounded,
    "concerns_grounded": concerns_grounded,
    "summary_true": summary_true,
    "no_contradiction": no_contradiction,
    "length": length,
}

WEIGHTS = {
    "valid_json": 0.15,
    "fields": 0.10,
    "score_in_range": 0.10,
    "recommendation_consistent": 0.15,
    "calibrated": 0.10,
    "strengths_grounded": 0.15,
    "concerns_grounded": 0.10,
    "summary_true": 0.05,
    "no_contradiction": 0.05,
    "length": 0.05,
}

# ---- what a judge is asked, a criterion a request (judge.ipynb); its scores vote where WEIGHTS names judge_<name>

RUBRIC = {
    "grounded": "Everything that the answer says about the candidate stands in the profile.",
    "fair": "Score and recommendation follow from how well the profile meets the needs and the years asked for.",
    "useful": "The strengths and concerns are those that somebody who hires for this role would want to know.",
}

# ---- what people are asked (review.ipynb): the first nine labels are reasons to reject, by their number

REVIEW = {
    "labels": ["wrong facts", "unfair", "score does not follow", "too vague", "bad format", "unkind"],
    "ratings": {"difficulty": "1: the profile settles it; 5: people who hire would disagree"},
    "guideline": """
Would you hand this evaluation to somebody who decides about the candidate?

- **Approve** what is true, fair and of use as it stands.
- **Edit** what is one sentence or one number away from it.
- **Reject** what says of the candidate what the profile does not, or whose score and recommendation do not follow.
- **Skip** what you cannot judge; **flag** what the lead should see.

Judge the text, not the candidate. A short answer that is right is better than a long one.
""",
}


# ---- metadata


def difficulty(candidate):
    """0 (easy) .. 1 (hard): many needs, and a fit near the line between two recommendations."""
    profile = candidate["profile"]
    many = min(1.0, max(0, len(profile["needs"]) - 2) / 2)
    near = 1 - min(1.0, min(abs(fit(profile) - line) for line in (0.5, 0.75)) / 0.125)
    return round((many + near) / 2, 3)


def category(candidate):
    """The SOC major group of the candidate's title."""
    return candidate["category"]


# ---- examples that keep the scorers honest: gold gets 1.0 from each, bad names the scorer that must see it

_SENIOR = {
    "title": "Web Developer",
    "years": 6,
    "skills": ["Kafka", "SQL", "Vue"],
    "role": "Database Architect",
    "needs": ["SQL", "Rust"],
    "min_years": 4,
}
_JUNIOR = {
    "title": "Security Manager",
    "years": 2,
    "skills": ["dbt", "Excel"],
    "role": "Sales Manager",
    "needs": ["Security", "gRPC", "SAP"],
    "min_years": 8,
}
_PERFECT = {
    "title": "Statistician",
    "years": 12,
    "skills": ["SAS", "dbt", "Julia", "Git"],
    "role": "Biostatistician",
    "needs": ["dbt", "SAS"],
    "min_years": 5,
}

GOLD = [
    {
        "profile": _SENIOR,
        "output": '{"strengths": ["worked 6 years as Web Developer", "has SQL"], "concerns": ["no Rust"], '
        '"summary": "A Web Developer with 6 years, meets 1 of 2 needs.", "score": 0.72, "recommendation": "interview"}',
    },
    {
        "profile": _JUNIOR,
        "output": '{"strengths": ["worked 2 years as Security Manager"], "concerns": ["lacks Security", "lacks gRPC", '
        '"lacks SAP", "below 8 years"], "summary": "Meets 0 of 3 needs, 2 years as Security Manager.", "score": 0.23, '
        '"recommendation": "reject"}',
    },
    {
        "profile": _PERFECT,
        "output": '{"strengths": ["worked 12 years as Statistician", "good at dbt", "good at SAS"], "concerns": [], '
        '"summary": "Has 12 years as Statistician, 2 of 2 needs met.", "score": 0.99, "recommendation": "hire"}',
    },
]


def _broken(old, new, breaks):
    """The first gold row with one thing broken."""
    return {"profile": _SENIOR, "output": GOLD[0]["output"].replace(old, new), "breaks": breaks}


BAD = [
    _broken('"interview"}', '"interview"', "valid_json"),
    _broken(', "recommendation": "interview"', "", "fields"),
    _broken("0.72", "72", "score_in_range"),
    _broken('"interview"', '"hire"', "recommendation_consistent"),
    _broken("0.72", "0.55", "calibrated"),
    _broken("has SQL", "has Docker", "strengths_grounded"),
    _broken("has SQL", "team player", "strengths_grounded"),
    _broken("worked 6 years", "worked 9 years", "strengths_grounded"),
    _broken('"no Rust"', "", "concerns_grounded"),
    _broken('"no Rust"', '"not sure"', "concerns_grounded"),
    _broken("1 of 2", "2 of 2", "summary_true"),
    _broken('"no Rust"', '"no Kafka"', "no_contradiction"),
    _broken("A Web Developer with 6 years, meets 1 of 2 needs.", "ok.", "length"),
]
