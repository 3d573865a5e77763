"""Near-duplicates, groups and leaks: what is invisible does not count, what is said does."""

import html
import random
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab import duplicates
from arislab.duplicates import groups, leaks, normalise, split, stars


def shingles(text):
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(a, b):
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


words = st.sampled_from(["fit", "strong", "weak", "candidate", "the", "a", "role", "Python,", "SQL.", "years"])
texts = st.lists(words, max_size=7).map(" ".join)


LETTERS = str.maketrans("0123456789", "abcdefghij")  # a word with a digit in it is a name that counts in full


def corpus(n, rng, vocabulary=3_000, length=60):
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(length)).translate(LETTERS) for _ in range(n)]


def edited(text, n_changes, rng):
    parts = text.split()
    for place in rng.sample(range(len(parts)), n_changes):
        parts[place] = f"new{rng.randrange(10**6)}".translate(LETTERS)
    return " ".join(parts)


# ---- groups


@given(st.lists(st.one_of(st.none(), texts), max_size=25), st.sampled_from([0.3, 0.6]))
@settings(max_examples=FUZZ, deadline=None)
def test_groups_are_the_connected_components_of_similar_texts(data, threshold):
    frame = pl.DataFrame({"candidate_id": [f"c{i:02d}" for i in range(len(data))], "profile": data})
    frame = frame.cast({"profile": pl.String})
    group = list(range(len(data)))
    for i in range(len(data)):
        for j in range(i):
            if data[i] is not None and data[j] is not None and jaccard(data[i], data[j]) >= threshold:
                group = [min(group[i], group[j]) if g in (group[i], group[j]) else g for g in group]
    found = groups(frame, on="profile", threshold=threshold)
    assert found["candidate_id"].to_list() == frame["candidate_id"].to_list()
    assert found["group_id"].to_list() == [f"c{g:02d}" for g in group]


def test_groups_of_a_large_set_join_every_planted_copy():
    rng = random.Random(4)
    originals = corpus(2_100, rng)
    data = originals + [edited(text, 1, rng) for text in originals[:300]]
    frame = pl.DataFrame({"candidate_id": [f"c{i:04d}" for i in range(len(data))], "profile": data})
    found = groups(frame, on="profile")["group_id"].to_list()
    assert found[:2_100] == [f"c{i:04d}" for i in range(2_100)]
    assert np.mean([found[2_100 + i] == f"c{i:04d}" for i in range(300)]) >= 0.99


# ---- labelled pairs

BASE = (
    "Ms. Ruiz Peña has led the café kitchen in Zürich for seven years; she plans menus, trains five cooks and keeps the books. "
    "Her stew costs 12.50 € or $14, tea is 3 € < 4 €, and x² - 5x + 6 = 0 hangs on the wall beside a 🙂."
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
    ("-7·3", "7·3"), ("-7 * 3", "7 * 3"), ("x²+5x", "x²-5x"), ("x^2 - 5x", "x^2 + 5x"), ("x²", "x2"), ("x²", "x³"), ("a + b", "a - b"),
    ("a-b", "a b"), ("a < b", "a > b"), ("a <= b", "a < b"), ("a ≤ b", "a ≥ b"), ("a == b", "a != b"), ("2 * 3", "2 / 3"), ("2**3", "2*3"),
    ("2 * (3 + 4)", "2 * 3 + 4"), ("(3 + 4) * 2", "3 + 4 * 2"), ("5!", "5"), ("!ready", "ready"), ("f'(x)", "f(x)"), ("¬p", "p"), ("∀ x", "∃ x"),
    ("A ∪ B", "A ∩ B"), ("A → B", "A ← B"), ("$5", "€5"), ("£5", "5"), ("-$5", "$5"), ("5 %", "5"), ("5%", "5‰"), ("1.5", "15"), ("3,5", "35"),
    (".5", "5"), ("10:30", "1030"), ("10 mg", "100 mg"), ("½", "¼"), ("2010", "2011"), ("0.72", "0.27"), ("🙂", "😡"), ("👍", "👎"), ("👍🏽", "👍🏿"),
    ("B12", "B6"), ("H2O", "H3O"), ("gpt-4o", "gpt-3o"), ("x1", "x2"), ("🇩🇪", "🇫🇷"), (":)", ":("), ("C", "C++"), ("C#", "C"), ("F♯", "F♭"), ("±2", "+2"), ("~5", "5"), ("#5", "5"), ("p & q", "p | q"), ("|x|", "x"), ("5°", "5"),
    ("cos(-π/2)", "cos(π/2)"), ("x → -∞", "x → ∞"), ("sin(-θ)", "sin(θ)"), ("-Δx", "Δx"), ("-α+β", "α+β"), ("-sin(x)", "sin(x)"), ("-log 5", "log 5"),
    ("sum of − 7 and 2", "sum of 7 and 2"), ("-½", "½"), ("x-½", "x ½"), ("α - β", "α β"), ("α-β", "α β"), ("π*2", "π 2"), ("2*-x", "2 -x"), ("2* 3", "2 3"), ("π!", "π"),
    ("(n+1)!", "(n+1)"), ("5!!", "5!"), ("θ'", "θ"), ("y'", "y"), ("y''", "y'"), ("y''", "y"), ("--x", "x"), ("--x", "-x"), ("5--3", "5-3"), ("⌊x⌋", "⌈x⌉"), ("⌊x⌋", "x"),
    ("負 -三", "負 三"), (".NET", "NET"), ("word − word", "word word"), ("2-sin(x)", "2 sin(x)"), ("Δx-Δy", "Δx Δy"), ("x - sin(x)", "x sin(x)"), ("total - 7", "total 7"),
    ("2*√3", "2 √3"), ("x -> y", "x > y"), ("O-", "O"), ("Cl-", "Cl"), ("A \\ B", "A B"), ("12 - tax", "12 tax"), ("−(a + b)", "a + b"), ("x⁻¹", "x¹"), ("−x", "x"), ("3 - i", "3 i"), ("x'-y'", "x' y'"), ("x' - y'", "x' y'"), ("2xy-3", "2xy 3"), ("UTC-5", "UTC 5"), ("π* 2", "π 2"), ("- √2", "√2"),
    ("F = -kx", "F = kx"), ("lim x→-∞", "lim x→∞"), ("−三", "三"), ("2⁻³", "2³"),
]  # fmt: skip


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
        st.sampled_from(["word", "Rust", "don't", "a", "x", "5", "1.5", "10:30", "covid-19", "well-known", "e-mail", "**", "-", "- ", "!", "\n", "’", "“", "…", "–",
                         "—", "\t", "+", "€", "🙂", "(", ")", ":)", "'", "&amp;", "候", "ü", "²", "_", "#", ".", ",", "|", "\u200b", "\x01", "\x02", "\r\n"]),
        st.text(max_size=3),
    ),
    max_size=12,
)  # fmt: skip


@given(st.lists(st.tuples(chunks, st.sampled_from(["", " "])), min_size=1, max_size=8))
@settings(max_examples=FUZZ, deadline=None)
def test_many_texts_have_the_forms_that_each_one_has(data):
    texts = [between.join(parts).encode("utf-8", "replace").decode() for parts, between in data]
    assert [form.replace("\x01", "") for form in duplicates._normal_forms(pl.Series(texts))] == [
        normalise(t) for t in texts
    ]


def test_nothing_and_texts_that_are_null_have_no_company():
    nothing = pl.DataFrame({"candidate_id": [], "text": []}, schema={"candidate_id": pl.String, "text": pl.String})
    assert groups(nothing).rows() == []
    nulls = pl.DataFrame({"candidate_id": ["a", "b"], "text": pl.Series([None, None], dtype=pl.String)})
    assert groups(nulls)["group_id"].to_list() == ["a", "b"]


def test_texts_of_one_name_are_one_group_and_connect_others():
    rows = [
        ("a", "bees fly far"),
        ("b", "mines are deep"),
        ("a", "rivers are long"),
        ("c", "Rivers are long!"),
        ("d", None),
    ]
    frame = pl.DataFrame(rows, schema=["candidate_id", "text"], orient="row")
    assert groups(frame).rows() == [("a", "a"), ("b", "b"), ("a", "a"), ("c", "a"), ("d", "d")]


def test_what_most_texts_say_is_judged_by_those_that_are_named():
    form = "please say in one sentence what this is about and who should see it now"
    asked = [f"{form} {kind} {thing}" for kind in "abcde" for thing in ("boat", "bread", "bed", "bell", "bowl")]
    frame = pl.DataFrame({"text": [*asked, *(f"other {i}" for i in range(30))]}).with_row_index("candidate_id")
    frame = frame.with_columns(pl.format("c{}", "candidate_id").alias("candidate_id"))
    assert groups(frame)["group_id"].n_unique() == 30 + 5, "of a kind they share all but the last word"
    assert groups(frame, everybody=pl.Series([*asked, None]))["group_id"].n_unique() == 55


def test_a_text_that_nobody_is_asked_counts_only_where_somebody_is():
    rows = [
        ("a", "one two", True),
        ("a", "go on", False),
        ("b", "three four", True),
        ("b", "go on", False),
        ("c", "go on!", True),
    ]
    frame = pl.DataFrame(rows, schema=["candidate_id", "text", "whole"], orient="row").with_columns(
        group_id=pl.lit(None, pl.String)
    )
    how = {"split_of": lambda _: "seen", "hidden": "dark"}
    assert split(frame, **how)["group_id"].to_list() == ["a", "a", "a"]
    assert split(frame.head(4), **how)["group_id"].to_list() == ["a", "b"]


# ---- splits that phase 5 lets through

asked = st.lists(
    st.tuples(st.one_of(st.none(), texts), st.sampled_from([None, None, "g-1", "g-2", "g-3"])), min_size=1, max_size=30
)


@given(asked, st.sampled_from([0.3, 0.5, 0.8]))
@settings(max_examples=FUZZ, deadline=None)
def test_what_the_split_lets_through_is_never_a_leak_later(data, threshold):
    frame = pl.DataFrame(
        {
            "candidate_id": [f"c{i:02d}" for i in range(len(data))],
            "text": [t for t, _ in data],
            "group_id": [g for _, g in data],
        },
        schema=dict.fromkeys(["candidate_id", "text", "group_id"], pl.String),
    )
    made = split(
        frame, split_of=lambda g: "dark" if sum(g.encode()) % 2 else "seen", hidden="dark", threshold=threshold
    )
    assert made["candidate_id"].to_list() == frame["candidate_id"].to_list()
    own = frame["group_id"].is_not_null()
    assert made["group_id"].filter(own).to_list() == frame["group_id"].filter(own).to_list()
    rows = made.join(frame.select("candidate_id", "text"), on="candidate_id").with_columns(id="candidate_id")
    dark, seen = rows.filter(split="dark"), rows.filter(split="seen")
    assert leaks(dark, seen, threshold=threshold, everybody=frame["text"]).rows() == []
    for group, where in made.drop_nulls("split").group_by("group_id").agg("split").iter_rows():
        assert len(set(where)) == 1, group


@given(asked.map(lambda rows: rows[:9]), asked.map(lambda rows: rows[:9]), st.sampled_from([0.3, 0.5, 0.8]))
@settings(max_examples=FUZZ, deadline=None)
def test_what_a_later_import_lets_through_is_no_leak_either_and_moves_nobody(first, second, threshold):
    schema = dict.fromkeys(["candidate_id", "text", "group_id"], pl.String)
    parts = [
        pl.DataFrame([(f"{name}{i}", text, group) for i, (text, group) in enumerate(data)], schema=schema, orient="row")
        for name, data in (("m", first), ("a", second))  # the later ones sort before the known
    ]
    how = {"split_of": lambda g: "dark" if sum(g.encode()) % 2 else "seen", "hidden": "dark", "threshold": threshold}
    known = split(parts[0], **how)
    every = pl.concat(
        [parts[1], known.join(parts[0].select("candidate_id", "text"), on="candidate_id")], how="diagonal"
    )
    made = split(every.select("candidate_id", "text", "group_id", "split"), **how)
    new = made.join(known, on="candidate_id", how="anti")  # what is known is not written again
    rows = pl.concat([new, known]).join(pl.concat(parts).select("candidate_id", "text"), on="candidate_id")
    rows = rows.with_columns(id="candidate_id")
    assert leaks(rows.filter(split="dark"), rows.filter(split="seen"), threshold=threshold).rows() == []


def test_a_text_that_two_groups_share_leaves_the_hidden_split_and_merges_nothing():
    frame = pl.DataFrame(
        {
            "candidate_id": ["a", "b", "c", "d"],
            "text": [
                "we need a nurse in Basel",
                "We need a nurse in Basel!",
                "we need a cook in Bern",
                "a baker in Chur",
            ],
            "group_id": ["g-ad", "g-other", "g-ad", None],
        }
    )
    made = split(frame, split_of=lambda g: "dark" if g == "g-ad" else "seen", hidden="dark")
    assert made.rows() == [("a", "g-ad", None), ("b", "g-other", "seen"), ("c", "g-ad", "dark"), ("d", "d", "seen")]


def test_a_new_candidate_joins_the_group_and_the_split_of_a_known_one():
    frame = pl.DataFrame(
        {
            "candidate_id": ["old", "new", "own"],
            "text": ["what is a fjord", "What is a fjord?", "what is a geyser"],
            "group_id": ["g-7", None, None],
            "split": ["dark", None, None],
        }
    )
    made = split(frame, split_of=lambda _: "seen", hidden="dark")
    assert made.rows() == [("old", "g-7", "dark"), ("new", "g-7", "dark"), ("own", "own", "seen")]
