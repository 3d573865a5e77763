"""Labelled rows are shown as they are trained."""

import re

import polars as pl
from toys import plain

from arislab import finetune

USER = {"role": "user", "content": "hi"}


def test_the_preview_marks_what_is_trained_and_escapes_what_people_wrote(tokenizer):
    examples = pl.concat([plain([USER], "<script>x</script>"), plain([USER], "")])
    shown = finetune.preview(finetune.tokenize(examples, tokenizer), tokenizer)
    html = shown._repr_html_()
    assert re.search(r"<mark[^>]*>&lt;script&gt;x&lt;/script&gt;&lt;\|end\|&gt;</mark>", html)
    assert "<script>" not in html
    assert repr(shown) == "Preview(1 rows; empty 1, ok 1)"
