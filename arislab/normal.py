"""The normal form of a text: what is invisible does not count, what is said does.

Invisible are case, white space, Unicode form (NFD, fullwidth, ligatures), zero-width and other format characters, soft
hyphens, HTML entities, underscores, the marks of markdown, ordinary punctuation. What is said counts in full: words,
numbers with all their digits, operators, currency, emoji::

    "**Solve**  x²&nbsp;− 5x"  ->  "solve x ^ 2 - 5x"

A hyphen, a dot, an asterisk, an apostrophe or an exclamation mark counts where it can be read as a sign (-sin(x), α -
β, .NET, y', n!), a MINUS SIGN (U+2212) everywhere; between words ("well-known", "salt - a mineral"), as bullet, as
emphasis and as quote it does not. In scripts written without spaces each character is a word.

What this file does not know: that a homoglyph looks like another letter. Quotes, most brackets and question marks are
punctuation.
"""

import functools
import html
import re
import unicodedata

from arislab.system.text import FILLERS

# control characters, which a text may hold too: `canonical` takes those out before it writes any
_SIGN, _PAD = "\x01", "\x02"  # around a sign that is not ASCII, and around a character of a script without spaces
_MINUS = "\x03"  # before a dash that is a minus, wherever it stands
SMART = {"’": "'", "‘": "'", "“": '"', "”": '"', "…": " ", "—": " ", "–": "-", "\u00a0": " "}
"""Apart from `_AS_ASCII`: these are replaced in whole columns, for a curly quote alone must make no text special."""
_AS_ASCII = dict.fromkeys("\u2010\u2011\u2012\u2013\ufe63\uff0d", "-") | {
    "\u2212": f"{_MINUS}-",
    "\u02d7": f"{_MINUS}-",
    "×": "*",
    "⋅": "*",
    "∗": "*",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "٪": "%",
    "٫": ".",
    "٬": ",",
    "ʼ": "'",
}
_HIDDEN = f"{FILLERS}\u0640"  # and the stretch of Arabic; a blank of Braille is a sign here, and counts
_LOUD = "′″‴‰‱⌊⌋⌈⌉⟨⟩‖†‡§"  # punctuation by category, signs by meaning
_MUTE = "©®"  # the other way round
_UNSPACED = (  # Thai, Lao, Myanmar, Khmer, Hiragana to Bopomofo, kana and Han, in blocks of Unicode
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)

_PLAIN_QUOTES = str.maketrans(SMART)
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);", re.IGNORECASE)
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺-⁾ⁿⁱ]+")  # NFKC alone would make x² the name x2 ...
_FRACTION = re.compile(r"(?<=[\w)\]])[¼-¾⅐-⅟↉]")  # ... and 1½ eleven halves
_SYMBOL = f"{_SIGN}[∞√∑∏∫∂∇]"  # no emoji: these stand beside bullets and emphasis
_LAYOUT = re.compile(  # what stands at the start of a line: quotes, bullets, headings; lines drawn with characters
    rf"\n[ \t]*(?:(?:\#{{1,6}}[ \t]+|[-*>•‣■-◿][ \t]+(?!{_SYMBOL})(?=[^\d \t]))+"
    r"|(?:[-*_=~\#|:+.][ \t]*){3,}(?=\n|\Z))"
)
_TABLE_ROW = re.compile(r"\n[ \t]*\|.*\|[ \t]*(?=\n|\Z)")
_BEYOND_ASCII = re.compile("[\x80-\U0010ffff]+")
_L = r"[^\W\d_]"  # a letter of any script
_TIMES = re.compile(rf"(?:(?<=[\d)\]])|(?<=\b{_L}))( ?)·( ?)(?=(?:{_MINUS}?-)?(?:[\d(]|{_L}\b))")
_W = "a-z0-9\x80-\U0010ffff"
_NUMBER = rf"[{_W}]+(?:(?<=\d)[.,:'](?=\d)[{_W}]+)*"  # a word too; a number with its point, comma or colon
_NUMBERS = (  # with one space between them, as one token: none begins with a space, and the fewer they are, the sooner
    rf"[{_W}]++(?:[ ][{_W}]++)*+(?:(?:[ ]|(?<=\d)[.,:'](?=\d))[{_W}]++)*+"
)
_FUNCTION = r"(?:(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|sqrt|abs|max|min|lim|det|gcd|pi|inf|infinity)\b"
_ONE = rf"(?:δ?{_L}(?!'?{_L}))"  # a name of one letter: x, x2, θ, Δx
_VARIABLE = "b-hj-zα-ω"  # of the letters that stand alone, a and i are words
_QUOTE = "*\"'`~_"  # quotes and emphasis
_TERM = rf"(?:[\d(.{_SIGN}]|{_ONE}|[{_W}]+\(|{_FUNCTION})"  # what can be subtracted
_AFTER_TERM = (  # spelt out, because a look-behind must have one width
    rf"(?:(?<=[\d)\]%{_SIGN}])|(?<=\b{_L})|(?<=\b{_L}')|(?<=\d{_L})|(?<=\d{_L}{_L})|(?<=\bδ{_L})"
    r"|(?<=\bpi)|(?<=\b(?:utc|gmt)))"
)
_OPENING = (  # a dash after it is no hyphen
    rf"(?:(?<![{_W})\]{_QUOTE}-])|(?<=[\s(][{_QUOTE}])|(?<=\A[{_QUOTE}])|(?<=[\s(]\*\*)|(?<=\A\*\*)"
    rf"|(?<=[\d)]\*)|(?<=\b{_L}\*)|(?<=[\d)]\*\*)|(?<=\b{_L}\*\*))"
)
_BETWEEN = rf"[^\w\s{_SIGN}{_PAD}-]{{0,3}}"  # a minus and its number: a currency, a bracket, a quote
_TOKEN = rf"""{_NUMBERS} | (?=[{_SIGN}+=<>%$&@^|/\\\#.~*\-!':;()])(?:  # the guard spares most characters what follows
      {_SIGN}.{_SIGN} | <-+> | [+=<>%$&@^|/\#] | (?<!~)~(?!~) | (?<=\S[ ])\\(?=[ ])
    | (?=\.)(?:(?<![{_W}.])\.(?=\d){_NUMBER}                                                # .5, .NET
      | (?:(?<![{_W}.)\]!?{_QUOTE}{_SIGN}{_PAD}])|(?<=[\s(][{_QUOTE}])|(?<=\A[{_QUOTE}]))\.{_NUMBER})
    | (?=\*)(?:                                                                             # times, power; not emphasis
        (?<=[{_W})\]])\*\*?(?=[{_W}(\[]|\.\d|{_MINUS}?-[\d(]|{_SYMBOL}) | (?<=[^\s*][ ])\*\*?(?=[ ][^\s*])
      | (?:(?<=[\d)])|(?<=\b{_L}))\*\*?(?={_MINUS}?-[{_W}{_SIGN}]) | (?:(?<=∞{_SIGN})|(?<=\d!))\*\*?(?=[{_W}({_SIGN}])
      | (?:(?<=\d)|(?<=\b{_L}))(?<!\*.)\*(?=[ ]\d) | (?:(?<=\d[ ])|(?<=\b{_L}[ ]))\*(?=\d)(?!\d+\*))
    | (?=-)(?:                                                                  # minus; not a hyphen, a dash, a bullet
        (?<={_MINUS})- | (?<!-)-+> | (?<=<)-+                                               # always
      | {_AFTER_TERM}-{{1,2}}(?={_TERM}) | (?<=\b{_L}{_L})-(?=\d)                           # 5-x, 2-sin(x)
      | (?:{_AFTER_TERM}|(?<=\b{_L}{_L}))-+(?=[\s)\],.;:!?"'*]|\Z)                          # O-, Cl-
      | (?<![{_W})\]-])-+(?={_BETWEEN}\d|{_ONE}|\() | {_OPENING}-+(?={_BETWEEN}[\w({_SIGN}{_PAD}])  # -7, -$5, -x
      | (?:(?<=[\d)\]%!{_SIGN}][ ])|(?<=[ ][=<>*/+^][ ]))-{{1,2}}(?=[ ]{_TERM}) | (?<=\b{_L}[ ])-{{1,2}}(?=[ ]{_TERM})
      | (?:(?<=\d[ ])|(?<=\d[{_QUOTE}][ ])|(?<=\d\*\*[ ])|(?<=[ ][=<>*/+^][ ])|(?<=\b[{_VARIABLE}][ ]))
        -(?=[ ][\w{_PAD}])
      | (?<=\S[ ])-{{1,2}}(?=[ ](?:\.?\d|[{_VARIABLE}ħ](?!'?{_L})|{_FUNCTION}|{_SIGN}       # not "word - word"
        |{_PAD}[〇一二三四五六七八九十百千万]))
      | \A-(?=[ ](?:\d|{_SYMBOL}))(?=[^\n]*\Z))
    | (?=!)(?:!(?==) | (?<=\d)!+ | (?<=\b{_L})!+(?![{_W}!])                                 # !=, 5!, n!; not "Oh!"
      | (?:(?<=\d\))|(?<=\b{_L}\)))!+ | (?<![{_W}])!(?=[{_W}(]))                            # (n+1)!, !x
    | (?=')(?:(?<=\b{_L})'+(?=\() | (?<=\b{_L})(?<!'{_L})'+(?![{_W}']) | (?<=[)\]])'+(?![{_W}']))  # f'(x), y'; not 'x'
    | (?<![{_W}])[:;]['-]?[()]+                                                             # :-)
    | (?=[()])(?:                                                                           # 2 * (3 + 4)
        (?:(?<=[{_W})][*/^+-])|(?<=[{_W})][ ][*/^+-][ ])|(?<={_MINUS}-)|(?<={_MINUS}-[ ]))\(
      | \)(?=[*/^+][{_W}(]) | \)(?=[ ][*/^+][ ][{_W}(]))
    )"""


@functools.cache
def _token() -> re.Pattern[str]:
    """What is a token, where it is needed for the first time: it takes 70 ms, and most texts are plain."""
    return re.compile(_TOKEN, re.VERBOSE)


class _Forms(dict[int, str | None]):
    """Character to what stands for it, for ``str.translate``; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = form = _form(chr(code))
        return form


_FORMS = _Forms()


def _form(char: str) -> str | None:
    code, category = ord(char), unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":
        return "\n" if char in "\x85\u2028\u2029" else " "
    if char == "·":  # times, or part of a word (col·lecció): its neighbours decide
        return char
    if char in _AS_ASCII:
        return _AS_ASCII[char]
    if category in ("Cf", "Me") or char in _HIDDEN or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
        return None
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if char in _LOUD or 0x1F3FB <= code <= 0x1F3FF:  # the tones of emoji
        return f"{_SIGN}{char}{_SIGN}"
    if category[0] == "P" or category == "Sk" or char in _MUTE or 0x2500 <= code <= 0x257F:  # lines of boxes
        return " "
    if category[0] == "S":
        return f"{_SIGN}{char}{_SIGN}"
    unspaced = any(first <= code <= last for first, last in _UNSPACED)
    return f"{_PAD}{char}{_PAD}" if unspaced else char


def normalise(text: str) -> str:
    """Return what a text says: its words, numbers and signs, with one space between them.

    A text of punctuation alone is returned as it is, but for its white space.

    Example:
        >>> normalise("**Solve**  x²&nbsp;− 5x = 1.50 €!")
        'solve x ^ 2 - 5x = 1.50 €'
    """
    return canonical(text.translate(_PLAIN_QUOTES)).replace(_SIGN, "")


def canonical(text: str) -> str:
    """Return the normal form of a text without `SMART` punctuation; signs beyond ASCII stand between marks."""
    text = text.replace(_SIGN, " ").replace(_PAD, " ").replace(_MINUS, " ")
    text = text.lower() if text.isascii() and "&" not in text else _shown(text)
    text = "\n" + text.replace("\t", " ").replace("\r", "\n")  # so that the first line begins as the others do
    if "|" in text:
        text = _TABLE_ROW.sub(lambda row: row[0].replace("|", " ") if row[0].count("|") > 2 else row[0], text)
    text = _LAYOUT.sub("\n", text)
    while "  " in text:
        text = text.replace("  ", " ")
    if "·" in text:
        text = _TIMES.sub(r"\1*\2", text)
    # else all texts of punctuation alone would be the empty text, and copies of each other
    return " ".join(_token().findall(text.strip())) or " ".join(text.split())


def _shown(text: str) -> str:
    """Return a text as the eye sees it, in lower case: one form of each character, nothing invisible."""
    text = _RAISED.sub(lambda raised: "^" + raised[0], _FRACTION.sub(r" \g<0>", text))
    while True:  # what was escaped twice comes out as an entity
        text = unicodedata.normalize("NFKC", text.replace("™", "").replace("℠", ""))  # NFKC: letters, glued to the word
        plain = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        if plain == text:
            text = unicodedata.normalize("NFKC", text.casefold())  # which may undo the form (Unicode, 3.13.3)
            return _BEYOND_ASCII.sub(lambda run: run[0].translate(_FORMS), text)
        text = plain
