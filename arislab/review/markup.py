"""Markdown as a tree of a few elements, for a browser that makes these and no others.

One answer and its tree::

    "Hire **her**<script>"  ->  [["p", ["Hire ", ["strong", ["her"]], "<script>"], ""]]

Nothing is HTML on the way: tags in the text are text, an image is what is written in its place, and an address is kept
of http, https and mailto alone. Characters that nobody would see stand there by their number, as elsewhere (layout).
"""

from functools import cache
from typing import Any

from arislab.review import layout

ELEMENTS = {
    *("p", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "hr", "br"),
    *("blockquote", "table", "thead", "tbody", "tr", "th", "td", "a", "mark"),
}
_SCHEMES = ("http:", "https:", "mailto:")
Tree = list[Any]


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def tree(text: str) -> Tree:
    """Return Markdown as a list of texts and of [element, what is in it, address].

    Args:
        text: Markdown of anybody.

    Example:
        >>> tree("Hire **her** <b>")
        [['p', ['Hire ', ['strong', ['her'], ''], ' <b>'], '']]
        >>> tree("[go](javascript:alert(1))")
        [['p', ['[go](javascript:alert(1))'], '']]
    """
    return _grown(_parser().parse(text))


def _grown(tokens: list[Any]) -> Tree:
    """The tree of a flat list of tokens, in which an element is opened (1), closed (-1), or stands alone (0)."""
    top: Tree = []
    stack = [top]
    for token in tokens:
        if token.type == "inline":
            stack[-1].extend(_grown(token.children or []))
        elif token.nesting == 1:
            inside: Tree = []
            if not token.hidden:
                stack[-1].append([_element(token.tag), inside, _address(token)])
            stack.append(stack[-1] if token.hidden else inside)
        elif token.nesting == -1:
            stack.pop()
        elif token.type in ("fence", "code_block"):
            stack[-1].append(["pre", [["code", _texts(token.content), ""]], ""])
        elif token.type == "code_inline":
            stack[-1].append(["code", _texts(token.content), ""])
        elif token.type in ("softbreak", "hardbreak"):
            stack[-1].append("\n" if token.type == "softbreak" else ["br", [], ""])
        elif token.type == "hr":
            stack[-1].append(["hr", [], ""])
        else:
            stack[-1].extend(_texts(token.content))
    return top


def _element(tag: str) -> str:
    return tag if tag in ELEMENTS else "span"


def _address(token: Any) -> str:
    address = str(token.attrGet("href") or "") if token.tag == "a" else ""
    return address if address.lower().startswith(_SCHEMES) else ""


def _texts(text: str) -> Tree:
    return [["mark", [part], ""] if is_hidden else part for part, is_hidden in layout.parts(text)]
