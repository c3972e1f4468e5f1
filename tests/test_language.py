"""The share of letters in the wanted language, and what must not cost anything."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpocket.records import UserError
from grpocket.tasks import language
from grpocket.tasks.language import LATIN, consistency, detect

SENTENCES = {
    "en": "First add the apples that Tom has, then take away three.",
    "de": "Zuerst addieren wir die Äpfel, dann ziehen wir drei ab.",
    "fr": "D'abord, on ajoute les pommes, puis on enlève la moitié.",
    "vi": "Đầu tiên cộng số táo, sau đó trừ đi một nửa.",
    "zh": "首先把苹果加起来，然后减去三个，所以答案是七。",
    "ja": "まずリンゴの数を足して、それから三つ引きます。",
    "ko": "먼저 사과의 수를 더하고 그 다음에 세 개를 뺍니다.",
    "ru": "Сначала сложим яблоки, затем вычтем половину.",
    "ar": "نجمع التفاحات أولا ثم نطرح ثلاثة منها.",
    "hi": "पहले सेबों को जोड़ें, फिर तीन घटाएँ और उत्तर लिखें।",
    "he": "קודם נחבר את התפוחים ואז נחסיר שלושה.",
    "el": "Πρώτα προσθέτουμε τα μήλα και μετά αφαιρούμε τρία.",
    "th": "ก่อนอื่นบวกแอปเปิ้ลแล้วลบออกสามลูก",
}


@pytest.fixture(autouse=True)
def without_langid(monkeypatch):
    monkeypatch.setattr(language, "_has_langid", lambda: False)


@pytest.mark.parametrize("code", SENTENCES)
def test_a_text_is_in_its_own_language(code):
    assert consistency(SENTENCES[code], code) == 1.0


@pytest.mark.parametrize("code", SENTENCES)
def test_a_text_is_in_no_other_script(code):
    others = [c for c in SENTENCES if not language.SCRIPTS[c] & language.SCRIPTS[code]]
    assert [c for c in others if consistency(SENTENCES[code], c) != 0.0] == []


def test_chinese_is_not_japanese_and_japanese_is_not_wholly_chinese():
    assert consistency(SENTENCES["zh"], "ja") == 0.0
    assert consistency(SENTENCES["ja"], "zh") < 0.5


def test_a_mixture_earns_its_share():
    assert consistency("ответ равен answers", "ru") == pytest.approx(10 / 17)


@pytest.mark.parametrize("code", ["en", "zh", "ru", "ar"])
@pytest.mark.parametrize(
    "extra",
    [
        "3 × 4 ÷ 2 ≤ 7 ± √2 ≠ ∞",
        "π r² ≈ 3.14 · r²",
        "x = 5, y = -3, α + β",
        "sin x + cos(y) - log 10 km",
        "$\\frac{abc}{def} + \\alpha$",
        "\\(total = price \\times count\\) \\[abc\\]",
        "`total = price * count`",
        "```python\nprint(total)\n```",
        "```python\nprint(total)",
        "<think></think><answer></answer>",
        "🙂 1,000 % € №",
        "𝑥 ∈ ℝ",
    ],
)
def test_formulas_code_signs_and_tags_cost_nothing(code, extra):
    assert consistency(f"{SENTENCES[code]} {extra}", code) == 1.0
    assert consistency(extra, code) is None


@pytest.mark.parametrize(
    "text", ["Der Wert beträgt über fünf", "Le thé coûte déjà à Noël", "cafe\u0301 and the nai\u0308ve"]
)
def test_accents_are_letters_like_any_other(text):
    assert consistency(text, "en") == 1.0


@pytest.mark.parametrize("text", ["", " ", "7", "x = 5", "3 + 4 = 7.", "<think></think><answer>7</answer>", "ok"])
def test_too_few_letters_say_nothing(text):
    assert consistency(text, "en") is None


@pytest.mark.parametrize("code", SENTENCES)
def test_a_question_has_the_language_of_its_script(code):
    script_only = {"en", "de", "fr", "vi"}
    assert detect(SENTENCES[code]) == (LATIN if code in script_only else code)


def test_a_question_without_letters_is_in_any_latin_language():
    assert detect("7 + 5 = ?") == LATIN
    assert consistency(SENTENCES["fr"], detect("Combien font 7 + 5 ?")) == 1.0


def test_regions_are_understood_and_unknown_languages_are_named():
    assert consistency(SENTENCES["zh"], "zh-CN") == 1.0
    assert consistency(SENTENCES["en"], "en_US") == 1.0
    with pytest.raises(UserError, match="language 'xx' is not known; use one of ar, "):
        consistency("", "xx")


def test_with_langid_latin_languages_are_told_apart(monkeypatch):
    monkeypatch.setattr(language, "_has_langid", lambda: True)
    monkeypatch.setitem(sys.modules, "py3langid", SimpleNamespace(classify=lambda text: ("fr", -1.0)))
    assert detect(SENTENCES["fr"]) == "fr"
    assert consistency(SENTENCES["fr"], "fr") == 1.0
    assert consistency(SENTENCES["fr"], "en") == 0.0
    assert consistency(SENTENCES["fr"], LATIN) == 1.0
    assert consistency("Bonjour Tom", "en") == 1.0  # too short to tell
    monkeypatch.setitem(sys.modules, "py3langid", SimpleNamespace(classify=lambda text: ("zxx", -1.0)))
    assert consistency(SENTENCES["fr"], "en") == 1.0


@pytest.mark.parametrize("unit", ["\\(", "\\[", "```", "`", "$", "<", "<a", "\\", "a", "\\(x", "é", "\u0301"])
def test_hostile_text_costs_nothing(unit):
    start = time.perf_counter()
    consistency(unit * 100_000, "en")
    assert time.perf_counter() - start < 1.0


TABLE = [
    line.split("\t") for line in (Path(__file__).parent / "languages.tsv").read_text(encoding="utf-8").splitlines()
]


def test_the_table_in_scripts_of_their_own_needs_no_package():
    own = [(code, text) for code, text in TABLE if "LATIN" not in language.SCRIPTS[code]]
    assert len({code for code, _ in own}) >= 10
    assert [code for code, text in own if consistency(text, code) != 1.0] == []


@pytest.mark.parametrize("code", ["zh", "ja", "ko", "ru", "ar", "hi", "el", "he", "th"])
def test_an_answer_that_slips_into_english_loses_its_share(code):
    text = next(text for c, text in TABLE if c == code)
    english = next(text for c, text in TABLE if c == "en")
    mixed = consistency(f"{text} {english}", code)
    assert 0.1 < mixed < 0.6
    assert consistency(f"{text} {english}", "en") == pytest.approx(1 - mixed)


def test_with_langid_installed_latin_languages_are_told_apart(monkeypatch):
    pytest.importorskip("py3langid")
    monkeypatch.setattr(language, "_has_langid", lambda: True)
    latin = [(code, text) for code, text in TABLE if "LATIN" in language.SCRIPTS[code]]
    assert len({code for code, _ in latin}) >= 11
    missed = [(code, language.detect(text)) for code, text in latin if consistency(text, code) != 1.0]
    assert len(missed) <= len(latin) // 10, missed
    others = {"en": "de", "de": "en"}
    paid = [code for code, text in latin if consistency(text, others.get(code, "en")) != 0.0]
    assert len(paid) <= len(latin) // 10, paid
    for neutral in ("x = 5", "<think>3 + 4 = 7</think><answer>7</answer>", "sin x + cos y = 1"):
        assert consistency(neutral, "en") is None
