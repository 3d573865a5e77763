"""Answers at once, by the engine that runs the batches."""

import openai
import pytest
from toys import Server


def test_models_and_direct_chat(echo: Server) -> None:
    assert [model.id for model in echo.client.models.list()] == ["echo"]
    answer = echo.client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "hi"
    with pytest.raises(openai.BadRequestError):
        echo.client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}], n=2)
