"""Whether a server keeps its models apart: the verdict on toy servers."""

import hashlib
import random
from datetime import UTC, datetime, timedelta

import pytest

from arislab import isolation
from arislab.isolation.evidence import Evidence

NAMES = ("base", "tuned", "other")


def says(model, prompt, n_same=4):
    """What a model says to a prompt; to every ``n_same``-th all say the same."""
    who = "all" if prompt % n_same == 0 else model
    return " ".join(hashlib.sha256(f"{who} {prompt} {i}".encode()).hexdigest()[:5] for i in range(6))


def judge(answer, models=NAMES):
    """Run a probe on ``answer(model, prompt, beside)``; ``beside`` has the other requests in flight, none if alone."""
    probe, sizes = isolation.examine(models), []
    answers = None
    try:
        while True:
            wave = next(probe) if answers is None else probe.send(answers)
            sizes.append(len(wave.asks))
            beside = list(wave.asks) if wave.at_once else []
            answers = ([answer(model, prompt, beside) for model, prompt in wave.asks], "no reason")
    except StopIteration as end:
        result = end.value
    assert result.n_requests == sum(sizes)
    assert max(sizes) <= isolation.AT_ONCE
    return result


def others(model, beside):
    return [name for name, _ in beside if name != model]


def test_a_server_that_answers_with_who_was_asked_is_isolated():
    result = judge(lambda model, prompt, _: says(model, prompt))
    assert (result.verdict, result.n_turned, result.n_control_turned, result.is_together) == ("isolated", 0, 0, True)
    assert (result.n_prompts, result.n_differ, result.n_could_show) == (12, 9, 108)
    assert result.n_requests == 12 * 3 * 2 + 108 + 108
    assert "0 of 108 answers turned into another model's" in repr(result)
    assert "3% would have shown with 95 % certainty" in repr(result)


def test_base_requests_answered_by_the_adapter_beside_them_are_a_finding():
    def answer(model, prompt, beside):
        return says("tuned" if model == "base" and "tuned" in others(model, beside) else model, prompt)

    result = judge(answer, ("base", "tuned"))
    assert (result.verdict, result.n_turned, result.n_could_show, result.n_control_turned) == ("mixes", 54, 108, 0)
    assert not result.is_together
    assert "'base' was asked" in result.example
    assert "as 'tuned' does" in result.example
    assert "one model at a time" in repr(result)


def test_answers_of_a_model_that_is_not_asked_clear_nobody():
    def answer(model, prompt, beside):
        return says("third" if model == "base" and others(model, beside) else model, prompt)

    result = judge(answer, ("base", "tuned"))
    assert (result.verdict, result.n_turned, result.n_departed, result.is_together) == ("cannot tell", 0, 162, False)
    assert "162 into answers that none of them gives alone" in repr(result)


def test_a_server_that_mixes_one_request_in_ten_is_found_too():
    for seed in range(20):
        chance = random.Random(seed)

        def answer(model, prompt, beside, chance=chance):
            wrong = others(model, beside) and chance.random() < 0.1
            return says(next(iter(others(model, beside))) if wrong else model, prompt)

        assert not judge(answer).is_together, seed


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_what_batching_alone_changes_is_no_finding(rate):
    for seed in range(20):
        chance = random.Random(seed)

        def answer(model, prompt, beside, chance=chance):
            words = says(model, prompt).split()
            if len(beside) > 1 and chance.random() < rate:
                words[chance.randrange(1, 6) :] = [str(chance.random())]
            return " ".join(words)

        result = judge(answer)
        assert result.verdict == "isolated", (seed, result)


def test_how_busy_the_machine_was_in_a_wave_is_no_finding():
    """Batching changes what was in flight together, which differs from wave to wave: fewest while connections open."""
    n_cleared = 0
    for seed in range(100):
        chance, waves = random.Random(seed), {}

        def answer(model, prompt, beside, chance=chance, waves=waves):
            if not beside:
                return says(model, prompt)
            rate, _ = waves.setdefault(id(beside), (chance.uniform(0.6, 0.95) if waves else 0.4, beside))
            return says(model, prompt) + (f" {chance.random()}" if chance.random() < rate else "")

        n_cleared += judge(answer).verdict == "isolated"
    assert n_cleared >= 95


def test_noise_that_happens_to_be_the_other_models_answer_is_none_if_it_comes_within_one_model_too():
    """Two models that differ by a hair.

    With others in flight, whoever they are, a fifth of the answers fall the other way.
    """
    verdicts = []
    for seed in range(40):
        chance = random.Random(seed)

        def answer(model, prompt, beside, chance=chance):
            flips = len(beside) > 1 and chance.random() < 0.2
            return says({"base": "tuned", "tuned": "base"}[model] if flips else model, prompt)

        verdicts.append(judge(answer, ("base", "tuned")).verdict)
    assert set(verdicts) == {"isolated"}


def test_models_that_answer_alike_cannot_be_told_apart_and_that_is_said():
    result = judge(lambda model, prompt, _: says("same" if model != "other" else model, prompt))
    assert (result.verdict, result.alike, result.is_together) == ("cannot tell", (("base", "tuned"),), False)
    assert result.n_prompts == len(isolation.PROMPTS), "longer answers to more prompts were tried"
    assert "'base' and 'tuned' answer 32 prompts alike" in repr(result)
    assert judge(lambda *_: "").alike == (("base", "tuned"), ("base", "other"), ("tuned", "other"))


def test_models_that_differ_only_in_one_longer_answer_are_told_apart_by_it():
    def answer(model, prompt, beside):
        own = model if prompt == 21 else "same"
        return says("tuned" if beside and others(model, beside) and own != "same" else own, prompt)

    assert judge(answer, ("base", "tuned")).verdict == "mixes"
    assert judge(lambda model, prompt, _: says(model if prompt == 21 else "same", prompt), NAMES).verdict == "isolated"


@pytest.mark.parametrize("how", ["last", "first after a change"])
def test_a_server_that_mixes_one_at_a_time_is_found_alone(how):
    used = []

    def answer(model, prompt, _):
        before = used[-1] if used else model
        used.append(model)
        if how == "last":
            before = next((name for name in reversed(used) if name != "base"), "base") if model == "base" else model
        return says(before, prompt, n_same=99)

    result = judge(answer, ("base", "tuned"))
    assert (result.verdict, result.is_together) == ("fails alone", False)
    assert result.n_turned_alone >= 2
    assert result.example


def test_one_answer_that_turned_alone_is_asked_again_before_it_counts():
    n_asked = {}

    def answer(model, prompt, _):
        n_asked[model, prompt] = n_asked.get((model, prompt), 0) + 1
        return says("tuned" if (model, prompt, n_asked[model, prompt]) == ("base", 5, 2) else model, prompt)

    assert judge(answer, ("base", "tuned")).verdict != "fails alone"


def test_a_server_that_draws_its_answers_anyhow_cannot_be_judged():
    chance = random.Random(1)
    result = judge(lambda model, prompt, _: f"{model} {chance.random()}")
    assert (result.verdict, result.alike) == ("cannot tell", ())
    assert "differently each time" in repr(result)


@pytest.mark.parametrize("silent", ["all", "tuned", "at once"])
def test_answers_that_do_not_come_clear_nobody(silent):
    def answer(model, prompt, beside):
        return None if silent in ("all", model) or (silent == "at once" and beside) else says(model, prompt)

    result = judge(answer)
    assert (result.verdict, result.is_together) == ("cannot tell", False)
    assert "no reason" in result.problem
    assert not result.covers(NAMES), "and it is asked again next time"


def test_names_that_nobody_answers_to_are_in_no_pair_and_get_no_longer_prompts(monkeypatch):
    invented, compared = [f"nobody-{i}" for i in range(200)], []
    real = Evidence.n_differ
    monkeypatch.setattr(Evidence, "n_differ", lambda self, *pair: compared.append(pair) or real(self, *pair))
    result = judge(lambda model, prompt, _: says(model, prompt) if model in NAMES else None, (*NAMES, *invented))
    assert result.n_requests == 12 * 2 * 203 + 108 + 108
    assert {name for pair in compared for name in pair} == set(NAMES)
    assert (result.verdict, result.n_turned, result.n_could_show, result.alike) == ("cannot tell", 0, 108, ())
    assert "'nobody-0' gave no answer" in result.problem
    assert "nobody-12 and 187 more are asked one model at a time" in repr(result)


def test_a_result_covers_its_models_for_a_day_and_a_part_of_them_where_that_follows():
    result = judge(lambda model, prompt, _: says(model, prompt))
    assert result.covers(NAMES)
    assert result.covers(("tuned", "base"))
    assert not result.covers((*NAMES, "new")), "a model that is added is examined"
    assert not result.covers(NAMES, now=datetime.now(UTC) + timedelta(days=1, seconds=1))
    unclear = judge(lambda model, prompt, _: says("same" if model != "other" else model, prompt))
    assert unclear.covers(NAMES)
    assert not unclear.covers(("base", "other"))
