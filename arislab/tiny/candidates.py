"""Synthetic candidates that the embedded model understands, with known duplicates.

One row::

    candidate_id='s0-000007' company='Veltex Labs' title='Web Developer' category='Computer and Mathematical'
    profile='{"title": "Web Developer", "years": 6, "skills": ["Kafka", "SQL", "Vue"], "role": "Database Architect",
    "needs": ["SQL", "Rust"], "min_years": 4}' use_case='tech' group_id='g0-000007' split='train'
"""

import json
from random import Random

import polars as pl

from arislab.errors import ParameterError, PrerequisiteError
from arislab.lake.tables import split_of
from arislab.task import Task, folder
from arislab.tiny.grammar import SKILLS, Profile, invented_word, make_profile, occupations

COMPANY_FORMS = ["Group", "Labs", "Ltd", "Partners", "Systems"]
USE_CASES = {"Computer and Mathematical": "tech", "Management": "executive"}
"""By SOC major group; all others are general."""


def first(n: int, *, seed: int, task: Task, base_url: str) -> pl.DataFrame:
    """Return the first candidates of an empty lake.

    They are synthetic, and refused where the task or the server is not made for them.

    Args:
        n: number of rows
        seed: as in ``compose``
        task: what will be asked
        base_url: server that will be asked

    Returns:
        As ``compose``.

    Raises:
        PrerequisiteError: Another task than the shipped one, or another server than the embedded one.
    """
    shipped = folder() / "candidate_evaluation.py"  # to the letter: who changed the task has candidates of their own
    if base_url == "embedded" and shipped.is_file() and task.source == shipped.read_text(encoding="utf-8"):
        return compose(n, seed=seed)
    raise PrerequisiteError(
        f"the lake has no candidates for task {task.name!r} on {base_url!r}; import yours: `arislab import FILE --as "
        f"candidates --id COLUMN --task {task.name}`. Made-up ones are composed unasked only for candidate_evaluation "
        "on the embedded server (`arislab candidates` composes them anywhere)."
    )


def compose(
    n: int, *, seed: int, duplicate_fraction: float = 0.01, near_duplicate_fraction: float = 0.03
) -> pl.DataFrame:
    """Compose candidates; the first rows do not depend on ``n``.

    Args:
        n: number of rows
        seed: another seed gives other candidates with other ids
        duplicate_fraction: share of rows that repeat the profile of an earlier row, 0..1
        near_duplicate_fraction: share of rows that repeat one with a small change, 0..1

    Returns:
        One row per candidate, all String: candidate_id; profile (JSON: title, years, skills, role, needs, min_years);
        company; title; category (SOC major group); use_case (tech, executive or general); group_id (shared by a profile
        and its duplicates); split (train, validation or test, by group).

    Raises:
        ParameterError: n is below 1, or the fractions are not fractions.

    Example:
        >>> compose(2, seed=0)["candidate_id"].to_list()
        ['s0-000000', 's0-000001']
    """
    if n < 1:
        raise ParameterError(f"n must be at least 1, got {n!r}; it is the number of candidates.")
    if min(duplicate_fraction, near_duplicate_fraction) < 0 or duplicate_fraction + near_duplicate_fraction > 1:
        given = f"{duplicate_fraction!r} and {near_duplicate_fraction!r}"
        raise ParameterError(
            f"duplicate_fraction and near_duplicate_fraction must be in [0, 1] and sum to at most 1, got {given}; "
            "they are fractions: 0.01 repeats one profile in a hundred."
        )
    rng = Random(f"candidates-{seed}")
    categories = occupations()
    profiles: list[Profile] = []
    originals: list[int] = []  # index of the first member of each row's group
    companies: list[str] = []
    for i in range(n):
        luck = rng.random()
        if i and luck < duplicate_fraction + near_duplicate_fraction:
            earlier = rng.randrange(i)
            profile, company = profiles[earlier], companies[earlier]
            if luck >= duplicate_fraction:
                profile = near_duplicate(profile, rng)
            originals.append(originals[earlier])
        else:
            profile, company = make_profile(rng), f"{invented_word(rng)} {rng.choice(COMPANY_FORMS)}"
            originals.append(i)
        profiles.append(profile)
        companies.append(company)
    titles = [profile["title"] for profile in profiles]
    groups = [f"g{seed}-{i:06d}" for i in originals]
    return pl.DataFrame(
        {
            "candidate_id": [f"s{seed}-{i:06d}" for i in range(n)],
            "profile": [json.dumps(profile) for profile in profiles],
            "company": companies,
            "title": titles,
            "category": [categories[title] for title in titles],
            "use_case": [USE_CASES.get(categories[title], "general") for title in titles],
            "group_id": groups,
            "split": [split_of(group) for group in groups],
        }
    )  # one row per candidate


def near_duplicate(profile: Profile, rng: Random) -> Profile:
    """Return a profile with one change that people would call the same profile."""
    change = rng.choice(["years", "order", "skill"])
    skills = list(profile["skills"])
    if change == "years" or (change == "order" and len(skills) < 2):
        return profile | {"years": profile["years"] + 1 if profile["years"] < 15 else 14}
    if change == "order":
        turn = rng.randrange(1, len(skills))
        return profile | {"skills": skills[turn:] + skills[:turn]}
    spare = rng.choice([i for i, skill in enumerate(skills) if skill not in profile["needs"]])
    skills[spare] = rng.choice([skill for skill in SKILLS if skill not in {*skills, *profile["needs"]}])
    return profile | {"skills": skills}
