"""The world of the embedded model: profiles, the prompt, evaluators of different care, training documents.

Every document is written by one hidden evaluator. Its level sets how likely each bad habit is and which wordings it
prefers; both show only at random from answer to answer, so several examples say more about the evaluator than one.
That is why examples in the prompt help this model, and why fine-tuning on its best answers does.

A profile::

    {
        "title": "Web Developer",
        "years": 6,
        "skills": ["Kafka", "SQL", "Vue"],
        "role": "Database Architect",
        "needs": ["SQL", "Rust"],
        "min_years": 4,
    }

Does not know: whether a skill suits a title, how skills resemble one another, anything outside the lists below.
Titles are those of O*NET (see titles.tsv for its licence); the skills are ours.
"""

import csv
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

Profile = dict[str, Any]
Chat = list[dict[str, str]]

SKILLS = """Python Java Kotlin Scala Rust Go Ruby PHP Swift TypeScript JavaScript SQL NoSQL Postgres MySQL
MongoDB Redis Kafka Spark Flink Airflow dbt Snowflake BigQuery Hadoop Hive Docker Kubernetes Terraform Ansible
Jenkins Linux Bash AWS Azure GCP React Angular Vue Django Flask FastAPI Spring Rails Node GraphQL REST gRPC
PyTorch TensorFlow Keras Sklearn Pandas NumPy Polars MLflow Ray CUDA OpenCV NLP Statistics Tableau PowerBI Looker
Excel SAS Matlab Julia Figma Sketch Photoshop Agile Scrum Jira Salesforce SAP Oracle Selenium Cypress Playwright
Pytest Git Prometheus Grafana Elastic Splunk Nginx Security OAuth Networking Cisco VMware Solidity Unity Unreal
""".split()  # noqa: SIM905 (a list would take a screen)
RECOMMENDATIONS = ["hire", "interview", "reject"]
SYSTEM = [
    "Evaluate the candidate for the role. Reply with one JSON object.",
    "You assess job profiles. Reply with JSON: strengths, concerns, summary, score, recommendation.",
    "Judge how well the profile fits the role.",
]
GENERIC_STRENGTHS = [
    "good attitude",
    "strong communicator",
    "team player",
    "fast learner",
    "nice profile",
    "looks promising",
]
GENERIC_CONCERNS = ["might need training", "salary unknown", "could be better", "not sure"]
RAMBLE = "We would like to say that the profile is what it is."
SYLLABLES = "zor tex vel mar qui ban lo dri fen gar pol ny ska ter umi wex jo hal".split()  # noqa: SIM905

# What an evaluator may do wrong, and the numbers that shape the corpus.
HABITS = [
    "broken",
    "drop",
    "scale",
    "inconsistent",
    "uncalibrated",
    "hallucinate",
    "generic",
    "contradict",
    "length",
]
LEVEL_SHARE = {"expert": 0.20, "decent": 0.32, "sloppy": 0.30, "bad": 0.18}
"""Share of documents written at each level."""
HABIT_CHANCE = {"expert": 0.06, "decent": 0.22, "sloppy": 0.42, "bad": 0.68}
"""Chance that an evaluator of this level has a habit, drawn for each habit."""
SHOWS, SLIPS = 0.60, 0.06
"""Chance that a habit shows in one answer: of an evaluator who has it, and of one who has not."""
WORDING_CHANCE = {
    "expert": (0.75, 0.18, 0.07),
    "decent": (0.45, 0.33, 0.22),
    "sloppy": (0.22, 0.33, 0.45),
    "bad": (0.07, 0.18, 0.75),
}
"""Preference for the three wordings below. They earn nothing by themselves; they tell who is writing."""
HAS = ["has {}", "knows {}", "good at {}"]
LACKS = ["no {}", "lacks {}", "missing {}"]
SUMMARY = [
    "A {title} with {years} years, meets {met} of {n} needs.",
    "Meets {met} of {n} needs, {years} years as {title}.",
    "Has {years} years as {title}, {met} of {n} needs met.",
]
PRIMER_SYSTEM = {
    "copy": "Repeat the skills.",
    "check": "Check each need.",
    "reasons": "List strengths and concerns.",
}


@cache
def occupations() -> dict[str, str]:
    """Return titles.tsv as title to SOC major group: ``{"Web Developer": "Computer and Mathematical"}``."""
    text = files("arislab.tiny").joinpath("titles.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    return {row["title"]: row["category"] for row in rows}


@cache
def titles(category: str | None = None) -> tuple[str, ...]:
    """Return all titles, or those of one SOC major group."""
    return tuple(title for title, group in occupations().items() if category in (None, group))


def invented_word(rng: Random) -> str:
    """Return a skill that nobody has heard of: several tokens, so that copying must generalise."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([2, 3]))).capitalize()


def make_profile(rng: Random, *, invent: float = 0.0, n_needs: int | None = None) -> Profile:
    """Draw one profile; ``invent`` is the chance that about half of its skills are invented words."""
    n_needs = n_needs or rng.choice([2, 3, 3, 4])
    pool = rng.sample(SKILLS, n_needs + 8)
    if invent and rng.random() < invent:
        pool = [invented_word(rng) if rng.random() < 0.5 else skill for skill in pool]
    needs, others = pool[:n_needs], pool[n_needs:]
    skills = rng.sample(needs, rng.randint(0, n_needs))
    skills += others[: max(1, rng.choice([3, 4, 5]) - len(skills))]
    rng.shuffle(skills)
    rng.shuffle(needs)
    title = rng.choice(titles())
    return {
        "title": title,
        "years": rng.randint(1, 15),
        "skills": skills,
        "role": rng.choice(titles(occupations()[title]) if rng.random() < 0.6 else titles()),
        "needs": needs,
        "min_years": rng.choice([2, 3, 4, 5, 6, 8]),
    }


def prompt(profile: Profile) -> str:
    """Return the user message about a profile. It says which needs are met: so small a model cannot look that up."""
    needs = ", ".join(need + (" yes" if need in profile["skills"] else " no") for need in profile["needs"])
    return (
        f"Title: {profile['title']}\nExperience: {profile['years']} years\nSkills: {', '.join(profile['skills'])}\n"
        f"Role: {profile['role']}\nNeeds: {needs}\nMinimum: {profile['min_years']} years"
    )


def fit(profile: Profile) -> float:
    """Return the rubric's score of a profile, 0.15..1: the share of needs met, and the years against the minimum."""
    met = sum(need in profile["skills"] for need in profile["needs"]) / len(profile["needs"])
    return 0.15 + 0.55 * met + 0.30 * min(1.0, profile["years"] / profile["min_years"])


def recommendation(score: float) -> str:
    """Return what a score recommends: hire from 0.75, interview from 0.5, else reject."""
    return "hire" if score >= 0.75 else "interview" if score >= 0.5 else "reject"


@dataclass(frozen=True)
class Evaluator:
    """A hidden author of answers."""

    level: str
    """expert, decent, sloppy or bad."""
    habits: frozenset[str]
    """The members of HABITS that this evaluator has."""
    slips: float
    """Chance that a habit shows that the evaluator does not have."""
    broken: str
    """How its JSON breaks when it does: brace, prose, quote or comma."""
    drops: tuple[str, ...] = field(default=())
    """Fields it forgets when it does."""
    scale: int = 10
    """Its own score scale when it uses one: 10 or 100."""
    length: str = "short"
    """How its summary goes wrong when it does: short or long."""

    def wording(self, rng: Random) -> tuple[str, str, str]:
        """Draw the wording of a met need, of a missing need and of the summary."""
        chance = WORDING_CHANCE[self.level]
        has, lacks, summary = (rng.choices(options, chance)[0] for options in (HAS, LACKS, SUMMARY))
        return has, lacks, summary


def make_evaluator(rng: Random, *, flawless: bool = False) -> Evaluator:
    """Draw an evaluator; a flawless one has no habit and never slips."""
    level = rng.choices(list(LEVEL_SHARE), list(LEVEL_SHARE.values()))[0]
    habits = frozenset(habit for habit in HABITS if rng.random() < HABIT_CHANCE[level])
    return Evaluator(
        level=level,
        habits=frozenset() if flawless else habits,
        slips=0.0 if flawless else SLIPS,
        broken=rng.choice(["brace", "prose", "quote", "comma"]),
        drops=tuple(rng.sample(["strengths", "concerns", "summary", "recommendation"], rng.choice([1, 2]))),
        scale=rng.choice([10, 100]),
        length=rng.choice(["short", "long"]),
    )


def reasons(profile: Profile, has: str, lacks: str) -> tuple[list[str], list[str]]:
    """Return the true strengths and concerns of a profile in the given wordings."""
    # "as" before the title and the digit after a space keep the tokens of copied words the same everywhere
    strengths = [f"worked {profile['years']} years as {profile['title']}"]
    strengths += [has.format(need) for need in profile["needs"] if need in profile["skills"]]
    concerns = [lacks.format(need) for need in profile["needs"] if need not in profile["skills"]]
    if profile["years"] < profile["min_years"]:
        concerns.append(f"below {profile['min_years']} years")
    return strengths, concerns


def evaluate(profile: Profile, evaluator: Evaluator, rng: Random) -> str:
    """Write one answer of an evaluator to a profile: JSON text, or what its habits make of it."""
    shows = {h for h in HABITS if rng.random() < (SHOWS if h in evaluator.habits else evaluator.slips)}
    has, lacks, summary = evaluator.wording(rng)
    true_score = rng.uniform(0.05, 0.99) if "uncalibrated" in shows else fit(profile) + rng.gauss(0, 0.02)
    score: float = round(min(0.99, max(0.02, true_score)), 2)
    advice = recommendation(score)
    if "inconsistent" in shows:
        advice = rng.choice([x for x in RECOMMENDATIONS if x != advice] + ["maybe"])
    strengths, concerns = reasons(profile, has, lacks)
    years, title, needs = profile["years"], profile["title"], profile["needs"]
    met = sum(need in profile["skills"] for need in needs)
    if "hallucinate" in shows:
        years = rng.choice([v for v in range(1, 16) if v != years])
        title = rng.choice([t for t in titles() if t != title]) if rng.random() < 0.5 else title
        met = rng.randint(0, len(needs))
        foreign = [skill for skill in SKILLS if skill not in profile["skills"] and skill not in needs]
        strengths = [f"worked {years} years as {title}"]
        strengths += [has.format(skill) for skill in rng.sample(foreign, rng.choice([1, 2]))]
    if "generic" in shows:
        strengths = rng.sample(GENERIC_STRENGTHS, rng.choice([1, 2]))
        concerns = [rng.choice(GENERIC_CONCERNS)]
    if "contradict" in shows:
        own = rng.sample(profile["skills"], min(len(profile["skills"]), rng.choice([1, 2])))
        concerns = [lacks.format(skill) for skill in own]
    text = summary.format(title=title, years=years, met=met, n=len(needs))
    if "length" in shows:
        text = "ok." if evaluator.length == "short" else " ".join([RAMBLE] * rng.choice([2, 3]))
    if "scale" in shows:
        score = round(score * 10, 1) if evaluator.scale == 10 else int(score * 100)
    # reasons come first, so that score and recommendation can rest on what has been written
    answer = {"strengths": strengths, "concerns": concerns, "summary": text, "score": score, "recommendation": advice}
    if "drop" in shows:
        answer = {name: value for name, value in answer.items() if name not in evaluator.drops}
    return break_json(answer, evaluator.broken) if "broken" in shows else json.dumps(answer)


def break_json(answer: dict[str, Any], how: str) -> str:
    """Write an answer as text that no JSON parser takes."""
    text = json.dumps(answer)
    if how == "brace":
        return text[:-1]
    if how == "comma":
        return text[:-1] + ",}"
    if how == "quote":
        return text.replace('"', "'")
    strengths = "; ".join(answer.get("strengths", [])[:2])
    return f"Score: {answer['score']}. I would say {answer.get('recommendation', 'maybe')}. {strengths}."


def document(rng: Random, turns: int, *, flawless: float = 0.0, invent: float = 0.06) -> Chat:
    """Write a chat: one evaluator (flawless with the given chance), several profiles."""
    evaluator = make_evaluator(rng, flawless=rng.random() < flawless)
    chat = [{"role": "system", "content": rng.choice(SYSTEM)}] if rng.random() < 0.8 else []
    for _ in range(turns):
        profile = make_profile(rng, invent=invent)
        chat.append({"role": "user", "content": prompt(profile)})
        chat.append({"role": "assistant", "content": evaluate(profile, evaluator, rng)})
    return chat


def primer(rng: Random, turns: int, *, kind: str | None = None, invent: float = 0.06) -> Chat:
    """Write reading exercises on the same profiles: copy the skills, check each need, or give the reasons."""
    kind = kind or rng.choice(["copy", "check", "reasons", "reasons"])
    evaluator = make_evaluator(rng)
    chat = [{"role": "system", "content": PRIMER_SYSTEM[kind]}]
    for _ in range(turns):
        profile = make_profile(rng, invent=invent, n_needs=rng.randint(3, 8) if kind == "check" else None)
        has, lacks, summary = evaluator.wording(rng)
        user, needs = prompt(profile), profile["needs"]
        if kind == "copy":
            user = answer = "Skills: " + ", ".join(profile["skills"])
        elif kind == "check":
            answer = json.dumps([(has if need in profile["skills"] else lacks).format(need) for need in needs])
        else:
            strengths, concerns = reasons(profile, has, lacks)
            met = sum(need in profile["skills"] for need in needs)
            text = summary.format(title=profile["title"], years=profile["years"], met=met, n=len(needs))
            answer = json.dumps({"strengths": strengths, "concerns": concerns, "summary": text})
        chat += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return chat
