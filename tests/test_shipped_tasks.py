"""The shipped tasks: other scripts are judged like English, and answers that cost nothing get next to nothing."""

import gzip
import json
import re
from inspect import signature

import polars as pl
import pytest
from toys import CHECKOUT

from arislab import scoring
from arislab.task import load

ENGLISH = (
    "How do I brew tea?",
    "Fill the kettle with fresh cold water and bring it to a boil. Warm the pot, then put in one spoon of leaves for "
    "every cup. "
    "Pour the hot water over the leaves and wait four minutes. Serve it with a slice of lemon or a little milk.",
)
SCRIPTS = {
    "Chinese": (
        "怎样泡茶？",
        "先在水壶里装满新鲜的冷水，然后把水烧开。接着温一温茶壶，每杯放一勺茶叶。把热水倒在茶叶上，等四分钟。最后配上一片柠檬或者一点牛奶就可以喝了。",
    ),
    "Japanese": (
        "お茶はどうやって入れますか？",
        "やかんに新しい冷たい水を入れて沸騰させます。ポットを温めてから、一杯につきスプーン一杯の茶葉を入れます。熱いお湯を茶葉に注いで四分間待ちます。レモンの薄切りか少しの牛乳を添えて出してください。",
    ),
    "Korean": (
        "차는 어떻게 우려내나요?",
        "주전자에 신선한 찬물을 채우고 물을 끓이세요. 찻주전자를 데운 다음 한 잔마다 찻잎을 한 숟가락씩 넣으세요. "
        "뜨거운 물을 찻잎 위에 붓고 사 분 동안 기다리세요. 레몬 한 조각이나 우유를 조금 곁들여 내세요.",
    ),
    "Thai": (
        "ชงชาอย่างไร",
        "เติมน้ำเย็นสะอาดลงในกาแล้วต้มให้เดือด อุ่นกาน้ำชาก่อน จากนั้นใส่ใบชาหนึ่งช้อนต่อหนึ่งถ้วย "
        "เทน้ำร้อนลงบนใบชาแล้วรอสี่นาที "
        "เสิร์ฟพร้อมมะนาวฝานหนึ่งชิ้นหรือนมเล็กน้อย",
    ),
    "Arabic": (
        "كيف أحضر الشاي؟",
        "املأ الغلاية بماء بارد نظيف ثم اتركه حتى يغلي. سخن الإبريق ثم ضع ملعقة واحدة من أوراق الشاي لكل كوب. "
        "اسكب الماء الساخن فوق الأوراق وانتظر أربع دقائق. قدمه مع شريحة من الليمون أو قليل من الحليب.",
    ),
    "Hebrew": (
        "איך מכינים תה?",
        "ממלאים את הקומקום במים קרים וטריים ומביאים אותם לרתיחה. מחממים את הקנקן ואחר כך שמים כפית אחת של עלים לכל "
        "כוס. "
        "שופכים את המים החמים על העלים ומחכים ארבע דקות. מגישים עם פרוסת לימון או עם מעט חלב.",
    ),
    "Hindi": (
        "चाय कैसे बनाते हैं?",
        "केतली में ताज़ा ठंडा पानी भरें और उसे उबाल लें। पहले बर्तन को गरम करें, फिर हर प्याले के लिए एक चम्मच पत्ती "
        "डालें। "
        "पत्ती पर गरम पानी डालें और चार मिनट तक रुकें। इसे नींबू के एक टुकड़े या थोड़े दूध के साथ परोसें।",
    ),
    "Greek": (
        "Πώς φτιάχνω τσάι;",
        "Γέμισε τον βραστήρα με φρέσκο κρύο νερό και άφησέ το να βράσει. Ζέστανε την τσαγιέρα και βάλε μία κουταλιά "
        "φύλλα για κάθε φλιτζάνι. "
        "Ρίξε το ζεστό νερό πάνω στα φύλλα και περίμενε τέσσερα λεπτά. Σέρβιρε με μία φέτα λεμόνι ή με λίγο γάλα.",
    ),
    "Cyrillic": (
        "Как заварить чай?",
        "Налейте в чайник свежую холодную воду и доведите её до кипения. Согрейте заварник и положите по одной ложке "
        "листьев на каждую чашку. "
        "Залейте листья горячей водой и подождите четыре минуты. Подавайте с ломтиком лимона или с небольшим "
        "количеством молока.",
    ),
}


@pytest.fixture(scope="module")
def task():
    return load("instruction_following")


def scores(task, question, answer):
    given = {"input": question, "output": answer}
    return {name: scorer(*[given[c] for c in signature(scorer).parameters]) for name, scorer in task.scorers.items()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_answer_in_another_script_is_judged_like_the_english_one_or_not_at_all(task, script):
    english, other = scores(task, *ENGLISH), scores(task, *SCRIPTS[script])
    for name, value in other.items():
        if value is not None and name != "on_topic":
            assert value == pytest.approx(english[name], abs=0.2), name
    assert 0.35 < other["developed"] < 0.75
    assert other["no_loop"] == other["not_an_echo"] == 1.0
    assert (other["answers"], other["on_topic"]) == (None, None)
    assert other["complete"] == (None if script == "Thai" else 1.0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_loops_echoes_and_stubs_are_seen_in_every_script(task, script):
    question, answer = SCRIPTS[script]
    first = answer.replace("。", ".").replace("।", ".").split(".")[0] if script != "Thai" else answer.split(" ")[0]
    assert scores(task, question, (first + " ") * 12)["no_loop"] < 0.3
    assert scores(task, answer, answer)["not_an_echo"] == 0.0
    assert scores(task, question, question)["developed"] < 0.15
    assert scores(task, question, (answer + "\n") * 8)["developed"] > 0.9
    assert scores(task, question, (answer + "\n\n") * 6)["structured"] == 1.0
    assert scores(task, question, (answer + " ") * 6)["structured"] == 0.0
    assert task.difficulty({"candidate_id": "c", "profile": {"input": answer}}) == pytest.approx(
        task.difficulty({"candidate_id": "c", "profile": {"input": ENGLISH[1]}}), abs=0.15
    )


def test_an_english_refusal_is_seen_under_any_question(task):
    assert scores(task, SCRIPTS["Chinese"][0], "I'm sorry, but I cannot help with that.")["answers"] == 0
    assert scores(task, SCRIPTS["Chinese"][0], ENGLISH[1])["answers"] == 1


def test_words_with_accents_are_whole_words(task):
    said = "El café de la estación está más allá, señor; ahí también sirven té, jamón y café sólo."
    assert scores(task, "¿Dónde está la estación?", said)["on_topic"] == 1.0


def test_skills_in_other_scripts_are_seen_in_an_evaluation():
    names = load("candidate_evaluation").scorers["strengths_grounded"].__globals__["names"]
    profile = {"title": "厨师", "skills": ["烹饪", "Кухня", "SQL"], "needs": ["烘焙"]}
    assert names("擅长烹饪 and Кухня, has SQL", profile) == {"烹饪", "Кухня", "SQL"}
    assert names("缺少烘焙, no Rust", profile) == {"烘焙", "Rust"}


def sentences():
    text = gzip.decompress((CHECKOUT / "data" / "sample" / "skillspan.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def mean_quality(answer):
    """Mean of quality and of report over the shipped sentences, for an answer that no model gave."""
    task, rows = load("key_terms"), sentences()
    frame = pl.DataFrame(
        {"custom_id": [r["id"] for r in rows], "candidate_id": "c", "output": [answer(r) for r in rows]}
    ).with_columns(profile=pl.Series([json.dumps(r) for r in rows]))
    return scoring.score(frame, task)["quality"].mean(), scoring.report(frame, task)["report"].mean()


def pieces(text, size):
    parts = text.split()
    return ", ".join(" ".join(parts[i : i + size]) for i in range(0, len(parts), size))


@pytest.mark.parametrize(
    "answer",
    [
        lambda row: "",
        lambda row: "English",
        lambda row: row["text"],
        lambda row: f"Key terms of: {row['text']}",
        lambda row: pieces(row["text"], 1),
        lambda row: pieces(row["text"], 3),
        lambda row: pieces(row["text"], 5),
    ],
    ids=["empty", "most frequent", "echo", "echo of the question", "words", "threes", "fives"],
)
def test_key_terms_pays_for_no_answer_that_costs_nothing(answer):
    quality, report = mean_quality(answer)
    assert quality < 0.3
    assert report < 0.15


def test_key_terms_gives_the_experts_answer_nearly_all():
    quality, report = mean_quality(lambda row: ", ".join(row["gold"]))
    assert quality > 0.97
    assert report == 1.0


def test_the_sentences_of_the_sample_are_split_by_ad_and_alike_in_none():
    rows = sentences()
    assert len({row["id"] for row in rows}) == len(rows)
    ads = {split: {row["ad"] for row in rows if row["split"] == split} for split in ("train", "validation", "test")}
    assert sum(map(len, ads.values())) == len(set.union(*ads.values()))
    assert len(ads["test"]) >= 60
    assert sum(row["split"] == "test" for row in rows) >= 300
    assert len({row["text"].lower() for row in rows}) == len(rows)
    assert all(1 <= len(row["gold"]) <= 5 and not re.search(r"[\x80-\x9f]", row["text"]) for row in rows)
