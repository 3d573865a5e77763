"""Labelled pairs: what is invisible makes no other text, and one sign does, however long the rest."""

import html
import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab import normal
from arislab.duplicates import leaks, normal_forms, normalise, stars

BASE = (
    "Ms. Ruiz Peña has led the café kitchen in Zürich for seven years; she plans menus, trains five cooks and keeps "
    "the books. Her stew costs 12.50 € or $14, tea is 3 € < 4 €, and x² - 5x + 6 = 0 hangs on the wall beside a 🙂."
)


INVISIBLE = {
    "case": str.upper,
    "white space": lambda t: t.replace(" ", " \t ").replace("; ", ";\r\n\n "),
    "no-break spaces": lambda t: t.replace(" ", "\u00a0"),
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    "zero-width spaces in words": lambda t: t.replace("e", "e\u200b"),
    "soft hyphens": lambda t: t.replace("n", "n\u00ad"),
    "byte order mark": lambda t: "\ufeff" + t,
    "direction marks": lambda t: "\u202a" + t + "\u202c",
    "variation selector": lambda t: t.replace("🙂", "🙂\ufe0f"),
    "fullwidth": lambda t: t.translate({i: i + 0xFEE0 for i in range(0x21, 0x7F)}),
    "ligature": lambda t: t.replace("fi", "ﬁ"),
    "HTML entities": lambda t: html.escape(t).replace("€", "&euro;").replace("é", "&eacute;").replace(" ", "&nbsp;"),
    "numeric entities": lambda t: t.replace("$", "&#36;").replace("ü", "&#xFC;"),
    "escaped twice": lambda t: html.escape(html.escape(t)),
    "underscores": lambda t: t.replace("menus, trains", "menus_trains"),
    "emphasis": lambda t: t.replace("seven years", "**seven years**").replace("stew", "*stew*").replace("tea", "`tea`"),
    "a heading, a quote, a bullet": lambda t: "# " + t.replace("; she", ";\n- she").replace(". Her", ".\n> Her"),
    "curly quotes and dashes": lambda t: t.replace("; she plans", " — she “plans”").replace("- 5x", "− 5x"),
    "dashes between words": lambda t: t.replace("; she", " - she").replace(" and keeps", " – and – keeps"),
    "hyphens beside emphasis": lambda t: t.replace("five cooks", "**five**-cooks").replace(
        "the books", "'the'-\"books\""
    ),
    "minus signs for dashes": lambda t: t.replace("x² - 5x", "x² − 5x"),
    "quoted letters": lambda t: t.replace("beside a ", "beside 'a' ").replace("Her stew", "“Her” ‘stew’"),
    "hyphens and commas": lambda t: t.replace("; she", ", she").replace("five cooks", "five-cooks"),
}


SMALL = {
    "a word replaced": lambda t: t.replace("kitchen", "bakery"),
    "a word dropped": lambda t: t.replace("Her stew", "Stew"),
    "a word added": lambda t: t.replace("keeps the books", "keeps the books well"),
    "a name at the end": lambda t: t + " Thanks, Ada",
    "a letter typed wrongly": lambda t: t.replace("menus", "menues"),
}


SIGNS = [
    ("-7·3", "7·3"),
    ("-7 * 3", "7 * 3"),
    ("x²+5x", "x²-5x"),
    ("x^2 - 5x", "x^2 + 5x"),
    ("x²", "x2"),
    ("x²", "x³"),
    ("a + b", "a - b"),
    ("a-b", "a b"),
    ("a < b", "a > b"),
    ("a <= b", "a < b"),
    ("a ≤ b", "a ≥ b"),
    ("a == b", "a != b"),
    ("2 * 3", "2 / 3"),
    ("2**3", "2*3"),
    ("2 * (3 + 4)", "2 * 3 + 4"),
    ("(3 + 4) * 2", "3 + 4 * 2"),
    ("5!", "5"),
    ("!ready", "ready"),
    ("f'(x)", "f(x)"),
    ("¬p", "p"),
    ("∀ x", "∃ x"),
    ("A ∪ B", "A ∩ B"),
    ("A → B", "A ← B"),
    ("$5", "€5"),
    ("£5", "5"),
    ("-$5", "$5"),
    ("5 %", "5"),
    ("5%", "5‰"),
    ("1.5", "15"),
    ("3,5", "35"),
    (".5", "5"),
    ("10:30", "1030"),
    ("10 mg", "100 mg"),
    ("½", "¼"),
    ("2010", "2011"),
    ("0.72", "0.27"),
    ("🙂", "😡"),
    ("👍", "👎"),
    ("👍🏽", "👍🏿"),
    ("B12", "B6"),
    ("H2O", "H3O"),
    ("gpt-4o", "gpt-3o"),
    ("x1", "x2"),
    ("🇩🇪", "🇫🇷"),
    (":)", ":("),
    ("C", "C++"),
    ("C#", "C"),
    ("F♯", "F♭"),
    ("±2", "+2"),
    ("~5", "5"),
    ("#5", "5"),
    ("p & q", "p | q"),
    ("|x|", "x"),
    ("5°", "5"),
    ("cos(-π/2)", "cos(π/2)"),
    ("x → -∞", "x → ∞"),
    ("sin(-θ)", "sin(θ)"),
    ("-Δx", "Δx"),
    ("-α+β", "α+β"),
    ("-sin(x)", "sin(x)"),
    ("-log 5", "log 5"),
    ("sum of − 7 and 2", "sum of 7 and 2"),
    ("-½", "½"),
    ("x-½", "x ½"),
    ("α - β", "α β"),
    ("α-β", "α β"),
    ("π*2", "π 2"),
    ("2*-x", "2 -x"),
    ("2* 3", "2 3"),
    ("π!", "π"),
    ("(n+1)!", "(n+1)"),
    ("5!!", "5!"),
    ("θ'", "θ"),
    ("y'", "y"),
    ("y''", "y'"),
    ("y''", "y"),
    ("--x", "x"),
    ("--x", "-x"),
    ("5--3", "5-3"),
    ("⌊x⌋", "⌈x⌉"),
    ("⌊x⌋", "x"),
    ("負 -三", "負 三"),
    (".NET", "NET"),
    ("word − word", "word word"),
    ("2-sin(x)", "2 sin(x)"),
    ("Δx-Δy", "Δx Δy"),
    ("x - sin(x)", "x sin(x)"),
    ("total - 7", "total 7"),
    ("2*√3", "2 √3"),
    ("x -> y", "x > y"),
    ("O-", "O"),
    ("Cl-", "Cl"),
    ("A \\ B", "A B"),
    ("12 - tax", "12 tax"),
    ("−(a + b)", "a + b"),
    ("x⁻¹", "x¹"),
    ("−x", "x"),
    ("3 - i", "3 i"),
    ("x'-y'", "x' y'"),
    ("x' - y'", "x' y'"),
    ("2xy-3", "2xy 3"),
    ("UTC-5", "UTC 5"),
    ("π* 2", "π 2"),
    ("- √2", "√2"),
    ("F = -kx", "F = kx"),
    ("lim x→-∞", "lim x→∞"),
    ("−三", "三"),
    ("2⁻³", "2³"),
]


def similarity(a, b, threshold=0.0001):
    star, index = stars(pl.DataFrame({"text": [a, b]}), threshold=threshold)
    return index[1] if star[1] == 0 else 0.0


@pytest.mark.parametrize("change", INVISIBLE)
def test_what_is_invisible_makes_no_other_text(change):
    changed = INVISIBLE[change](BASE)
    assert changed != BASE
    assert normalise(changed) == normalise(BASE)
    assert leaks(one("t", changed), one("u", BASE)).select("candidate_id", "kind").rows() == [("t", "exact")]


@pytest.mark.parametrize("change", SMALL)
def test_a_small_edit_is_near_as_the_threshold_says(change):
    changed = SMALL[change](BASE)
    words = [set(zip(w, w[1:], w[2:], strict=False)) for w in (normalise(BASE).split(), normalise(changed).split())]
    index = len(words[0] & words[1]) / len(words[0] | words[1])
    assert 0.8 < index < 1
    assert similarity(BASE, changed, 0.8) == pytest.approx(index)
    assert similarity(BASE, changed, index + 0.001) == 0
    assert leaks(one("t", changed), one("u", BASE)).select("kind").rows() == [("near",)]


@pytest.mark.parametrize("pair", SIGNS, ids=" ".join)
@pytest.mark.parametrize("around", ["{}", "Evaluate {} please.", BASE + " On the other wall: {} and nothing else."])
def test_one_sign_makes_another_text_however_long_the_rest(pair, around):
    a, b = (around.format(text) for text in pair)
    assert similarity(a, b) == 0
    assert leaks(one("t", a), one("u", b), threshold=0.5).rows() == []


def one(name, text):
    return pl.DataFrame({"id": [name], "candidate_id": [name], "group_id": [f"g-{name}"], "text": [text]})


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("**Solve**  x²&nbsp;− 5x = 1.50 €!", "solve x ^ 2 - 5x = 1.50 €"),
        ("The capital is **Canberra**, *now*.", "the capital is canberra now"),
        ("- well-known e-mail\n- covid-19, 2010–2015", "well known e mail covid 19 2010 - 2015"),
        ("### 1. Set up\n  * 2 cups\n  -  salt\n-7 °C", "1 set up 2 cups salt - 7 ° c"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
        ("col·lecció −7 · 3", "col·lecció - 7 * 3"),
        ("東京は大きい！", "東 京 は 大 き い"),
        ("हिन्दी में लिखो", "हिन्दी में लिखो"),
        ("٣٫٥ + ۲", "3.5 + 2"),
        ("Straße, ΟΔΟΣ", "strasse οδοσ"),
        ("**Salt** - a mineral\n- **Well**-known, word -- word", "salt a mineral well known word word"),
        ("Wow!! Oh no! It is the dogs' 'x', x-ray.", "wow oh no it is the dogs x x ray"),
        ("sin(-θ) − ½ = .NET", "sin - θ - 1 / 2 = .net"),
        (" ?!  ?! ", "?! ?!"),
        ("", ""),
    ],
)
def test_the_normal_form_is_words_numbers_and_signs(text, form):
    assert normalise(text) == form


def test_scripts_without_spaces_are_near_by_their_characters():
    for a, b in [
        ("候选人非常适合这个职位，因为他有七年的经验。", "候选人很适合这个职位，因为他有七年的经验！"),
        ("彼女は東京で七年間料理人として働いていました。", "彼女は東京で七年間料理長として働いていました"),
        ("เธอทำงานเป็นพ่อครัวในกรุงเทพมหานครมาเจ็ดปีแล้ว", "เธอทำงานเป็นพ่อครัวในกรุงเทพมหานครมาแปดปีแล้ว"),
    ]:
        assert 0.5 < similarity(a, b) < 1


chunks = st.lists(
    st.one_of(
        st.sampled_from([
            "word", "Rust", "don't", "a", "x", "5", "1.5", "10:30", "covid-19", "well-known", "e-mail", "**", "-", "- ",
            "!", "\n", "’", "“", "…", "–", "—", "\t", "+", "€", "🙂", "(", ")", ":)", "'", "&amp;", "候", "ü", "²", "_",
            "#", ".", ",", "|", "\u200b", "\x01", "\x02", "\r\n",
        ]),
        st.text(max_size=3),
    ),
    max_size=12,
)  # fmt: skip


@given(st.lists(st.tuples(chunks, st.sampled_from(["", " "])), min_size=1, max_size=8))
@settings(max_examples=FUZZ, deadline=None)
def test_many_texts_have_the_forms_that_each_one_has(data):
    texts = [between.join(parts).encode("utf-8", "replace").decode() for parts, between in data]
    assert [form.replace("\x01", "") for form in normal_forms(pl.Series(texts))] == [normalise(t) for t in texts]


ONE_BY_ONE = re.compile(normal._TOKEN.replace(normal._NUMBERS, normal._NUMBER), re.VERBOSE)


@given(st.lists(st.tuples(chunks, st.sampled_from(["", " ", "  "])), min_size=1, max_size=8))
@settings(max_examples=FUZZ, deadline=None)
def test_words_in_a_row_that_are_found_as_one_are_those_found_one_by_one(data):
    text = "".join(part + between for parts, between in data for part in parts)
    found = normal._token().findall(text)
    assert " ".join(found) == " ".join(ONE_BY_ONE.findall(text))
    assert len(normal._token().findall("as 3.5 words go")) == 1 < len(ONE_BY_ONE.findall("as 3.5 words go"))
