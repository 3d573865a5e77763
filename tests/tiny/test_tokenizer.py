"""The tokenizer is the one that the recipe builds."""

from arislab.tiny import grammar, tokenizer
from arislab.tiny.decoder import MODEL_DIR


def test_the_committed_tokenizer_is_the_one_that_the_recipe_builds(tmp_path):
    tokenizer.save(tokenizer.build(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text("utf-8") == (MODEL_DIR / name).read_text("utf-8"), name


def test_every_skill_is_one_token_and_every_title_at_most_three(engine):
    def n_tokens(text):
        return len(engine.tokenizer.encode(" " + text, add_special_tokens=False).ids)

    assert [skill for skill in grammar.SKILLS if n_tokens(skill) != 1] == []
    assert [title for title in grammar.titles() if n_tokens(title) > 3] == []
