"""What a prompt with examples looks like."""

from arislab import icl


def test_examples_stand_between_system_and_question():
    write = icl.with_examples(
        lambda c: [{"role": "system", "content": "S"}, {"role": "user", "content": c["q"]}],
        [("q1", "a1"), ("q2", "a2")],
    )
    assert [m["content"] for m in write({"q": "now"})] == ["S", "q1", "a1", "q2", "a2", "now"]
    assert [m["role"] for m in icl.with_examples(lambda c: [{"role": "user", "content": "x"}], [("q", "a")])({})] == [
        "user",
        "assistant",
        "user",
    ]
