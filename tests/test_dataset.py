"""The data: read exactly, faults named, problems generated, split and drawn by pure functions."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpocket.records import Problem, TrainState, UserError
from grpocket.tasks.arithmetic import count_questions, generate
from grpocket.tasks.dataset import MathDataset
from grpocket.tasks.draw import draw, overlap, split

DATA = Path(__file__).parent.parent / "data" / "math_tasks.jsonl"
ROW = '{"question": "1 + 1?", "answer": "2"}'


@pytest.fixture
def load(tmp_path):
    def write_and_read(text, **settings):
        path = tmp_path / "tasks.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return MathDataset(path, **settings)

    return write_and_read


def rows(*values):
    return "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)


def problems(*questions):
    return tuple(Problem(f"t:{i}", ({"role": "user", "content": q},), "1") for i, q in enumerate(questions))


# Reading what is good


def test_a_data_set_is_a_sequence_of_pairs(load):
    data = load(rows(*({"question": f"q{i}", "answer": str(i)} for i in range(3))))
    assert len(data) == 3
    assert list(data) == [("q0", "0"), ("q1", "1"), ("q2", "2")]
    assert data[-1] == ("q2", "2")
    assert data[:2] == [("q0", "0"), ("q1", "1")]
    assert [p.id for p in data.problems] == ["tasks.jsonl:1", "tasks.jsonl:2", "tasks.jsonl:3"]
    with pytest.raises(IndexError):
        data[3]


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip), st.booleans())
def test_text_comes_back_equal(tmp_path_factory, question, other, ascii_only):
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    path.write_text(json.dumps({"question": question, "answer": "7", "other": other}, ensure_ascii=ascii_only) + "\n")
    data = MathDataset(path)
    assert data[0] == (question, "7")
    assert data.problems[0].columns == {"other": other}


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ('"007"', "007"),
        ("7", "7"),
        ("-0", "-0"),
        ("0.10", "0.10"),
        ("1.50e3", "1.50e3"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.1234567890123456789", "0.1234567890123456789"),
        ('"2024-01-02"', "2024-01-02"),
        ('"🙂"', "🙂"),
        ('"a\u2028b"', "a\u2028b"),
        ('" 42 "', "42"),
        ('"He has 42.\\n#### 42"', "42"),
        ('"so \\\\boxed{1/2}"', "1/2"),
    ],
)
def test_an_answer_keeps_its_text(load, written, answer):
    assert load(f'{{"question": "q", "answer": {written}}}')[0] == ("q", answer)


def test_other_columns_keep_their_types(load):
    row = {
        "question": "q",
        "answer": "#### 5",
        "level": 3,
        "score": 0.5,
        "tags": ["a", 1],
        "more": {"n": None},
        "b": True,
    }
    columns = load(rows(row)).problems[0].columns
    assert columns == {
        "level": 3, "score": 0.5, "tags": ["a", 1], "more": {"n": None}, "b": True, "original_answer": "#### 5"
    }  # fmt: skip
    assert type(columns["level"]) is int
    assert type(columns["score"]) is float


OFFERED = ("question", "prompt", "answer")


@pytest.mark.parametrize("question", ["question", "prompt", "problem"])
@pytest.mark.parametrize("answer", ["answer", "solution", "ground_truth"])
def test_usual_column_names_are_taken_and_said(load, question, answer):
    data = load(rows({answer: "2", question: "1 + 1?", "id": 9}))
    assert data[0] == ("1 + 1?", "2")
    assert data.columns_taken == f'tasks.jsonl: 1 problem, question from "{question}", answer from "{answer}"'
    under_its_own_name = {name: text for name, text in ((question, "1 + 1?"), (answer, "2")) if name not in OFFERED}
    assert data.problems[0].columns == {"id": 9, **under_its_own_name}
    assert data.problems[0].plain == (question == "prompt")


def test_the_first_of_several_names_is_taken_and_the_others_kept(load):
    data = load(rows({"problem": "1 + 1?", "solution": "one and one", "answer": "2"}))
    assert data[0] == ("1 + 1?", "2")
    assert data.problems[0].columns == {"problem": "1 + 1?", "solution": "one and one"}


def test_a_prompt_may_be_a_conversation(load):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    data = load(rows({"prompt": messages, "answer": 4}))
    assert data[0] == ("And 2 + 2?", "4")
    assert list(data.problems[0].messages) == messages


def test_bom_crlf_blank_lines_and_line_separators_are_fine(load):
    text = '\ufeff{"question": "a\u2028\u0085b", "answer": "1"}\r\n\r\n  \n{"question": "c", "answer": "2"}'
    data = load(text)
    assert list(data) == [("a\u2028\u0085b", "1"), ("c", "2")]
    assert data.problems[1].id == "tasks.jsonl:4"


def test_filters_and_limit(load):
    text = rows(
        *({"question": f"{t} {d}", "answer": "1", "num_terms": t, "num_digits": d} for t in (2, 3, 4) for d in (1, 2))
    )
    assert [q for q, _ in load(text, max_terms=3, max_digits=1)] == ["2 1", "3 1"]
    assert [q for q, _ in load(text, max_digits=1, limit=1)] == ["2 1"]
    assert len(load(text)) == 6


# Naming what is bad


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no rows"),
        ("\n \n", "holds no rows"),
        (ROW + "\n" + ROW[:-1], r"tasks.jsonl:2:37: malformed JSON \(Expecting ',' delimiter\)"),
        (ROW + " " + ROW, r"tasks.jsonl:1:39: malformed JSON \(Extra data\)"),
        ("question,answer\n1+1,2", r"tasks.jsonl:1:1: malformed JSON \(Expecting value\)"),
        ("[" + ROW + "]", "tasks.jsonl:1: .* is not an object"),
        ("3", "tasks.jsonl:1: 3 is not an object"),
        ("null", "tasks.jsonl:1: None is not an object"),
        ('{"answer": "2", "text": "1 + 1?"}', "no column \"question\" .*found 'answer', 'text'"),
        ('{"question": "1 + 1?"}', "no column \"answer\" .*found 'question'"),
        ("{}", "found no columns at all"),
        (ROW + '\n{"prompt": "1?", "answer": "1"}', 'tasks.jsonl:2: no column "question", which the first row has'),
        ('{"question": 5, "answer": "2"}', '"question" is 5; a question must be a string'),
        ('{"question": null, "answer": "2"}', '"question" is None'),
        ('{"question": " ", "answer": "2"}', '"question" is empty'),
        ('{"question": [], "answer": "2"}', "does not end with a user message"),
        ('{"question": ["hi"], "answer": "2"}', "\"question\" holds 'hi'; a message must be"),
        ('{"question": [{"role": "robot", "content": "x"}], "answer": "2"}', "role 'robot'; use one of system"),
        ('{"question": [{"role": "user", "content": 3}], "answer": "2"}', "content 3; it must be a string"),
        ('{"question": [{"role": "assistant", "content": "x"}], "answer": "2"}', "does not end with a user message"),
        ('{"question": [{"role": "user", "content": "x", "name": "y"}], "answer": "2"}', "message with 'name'"),
        ('{"question": "1?", "answer": null}', '"answer" is None; an answer must be a string or a number'),
        ('{"question": "1?", "answer": true}', '"answer" is True'),
        ('{"question": "1?", "answer": ["2"]}', r"\"answer\" is \['2'\]"),
        ('{"question": "1?", "answer": ""}', '"answer" is empty'),
        ('{"question": "1?", "answer": "2", "answer": "3"}', "key 'answer' occurs twice"),
        ('{"question": "1?", "answer": "2", "x": {"y": 1, "y": 1}}', "key 'y' occurs twice"),
        ('{"question": "1?", "answer": NaN}', "NaN is not JSON"),
        ('{"question": "1?", "answer": "2", "x": -Infinity}', "-Infinity is not JSON"),
        ('{"question": "1?", "answer": "2", "x": 1e999}', "number 1e999 is out of range"),
        ('{"question": "1?", "answer": "2", "x": ' + "9" * 5000 + "}", "is out of range"),
        ('{"question": "\\ud800", "answer": "2"}', "half a surrogate pair"),
        ('{"question": "1?", "answer": "2", "x": ' + "[" * 60 + "]" * 60 + "}", "nested deeper than 50"),
        ("[" * 100_000, "nested deeper than 50"),
        (ROW.encode() + b'\n{"question": "caf\xe9", "answer": "2"}', "tasks.jsonl:2:18: byte 0xe9 is not UTF-8"),
        (ROW.encode("utf-16"), "tasks.jsonl:1:1: byte 0xff is not UTF-8"),
        (b"\x1f\x8b\x08\x00", "is not UTF-8"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(load, text, reason):
    with pytest.raises(UserError, match=reason) as caught:
        load(text)
    message = str(caught.value)
    assert "tasks.jsonl" in message
    assert "\n" not in message
    assert len(message) < 400


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file; `grpocket data arithmetic"):
        MathDataset(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="is a folder; name a JSONL file"):
        MathDataset(tmp_path)


@pytest.mark.parametrize(
    ("columns", "settings", "reason"),
    [
        ({}, {"max_terms": 2}, 'no column "num_terms", and a filter asks for it'),
        ({"num_terms": 2}, {"max_terms": 2, "max_digits": 1}, 'no column "num_digits"'),
        ({"num_terms": "2"}, {"max_terms": 2}, "\"num_terms\" is '2'"),
        ({"num_terms": True}, {"max_terms": 2}, '"num_terms" is True'),
        ({"num_terms": 3}, {"max_terms": 2}, "no row has num_terms <= 2; raise the filter"),
        ({}, {"limit": 0}, "limit=0 leaves no problems"),
    ],
)
def test_filters_that_cannot_be_honoured_are_refused(load, columns, settings, reason):
    with pytest.raises(UserError, match=reason):
        load(rows({"question": "1?", "answer": "1", **columns}), **settings)


# Arithmetic


@given(
    st.integers(),
    st.tuples(st.integers(2, 5), st.integers(0, 3)).map(lambda t: (t[0], t[0] + t[1])),
    st.tuples(st.integers(1, 4), st.integers(0, 2)).map(lambda d: (d[0], d[0] + d[1])),
    st.sampled_from(["+", "-", "*", "+-", "+-*", "++--*"]),
)
def test_generated_answers_are_pythons_own(seed, terms, digits, operators):
    generated = list(generate(20, seed, terms, digits, operators))
    assert len({row["question"] for row in generated}) == 20
    for row in generated:
        expression = str(row["question"]).removeprefix("What is ").removesuffix("?")
        numbers = expression.split()[::2]
        assert row["answer"] == str(eval(expression))
        assert row["num_terms"] == len(numbers)
        assert {len(n) for n in numbers} == {row["num_digits"]}
        assert terms[0] <= len(numbers) <= terms[1]
        assert digits[0] <= row["num_digits"] <= digits[1]
        assert set(expression.split()[1::2]) <= set(operators)


def test_every_question_there_is_can_be_generated_and_no_more():
    assert count_questions((2, 2), (1, 1), "+-") == 200
    assert len(list(generate(200, 3, (2, 2), (1, 1), "+-"))) == 200
    with pytest.raises(UserError, match="num=201: give 1 to 200, the number of different questions"):
        generate(201, 3, (2, 2), (1, 1), "+-")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num": 0}, "num=0"),
        ({"terms": (1, 2)}, "terms=1-2: give a range within 2-20"),
        ({"terms": (3, 2)}, "terms=3-2"),
        ({"digits": (0, 1)}, "digits=0-1"),
        ({"digits": (1, 99)}, "digits=1-99"),
        ({"operators": ""}, "operators=''"),
        ({"operators": "+/"}, r"operators='\+/': use one or more of"),
    ],
)
def test_senseless_levels_are_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        generate(**{"num": 5, **settings})


def test_the_committed_data_is_what_the_generator_makes():
    data = MathDataset(DATA)
    made = list(generate(600, 0, (2, 3), (1, 2), "++--*"))
    assert list(data) == [(row["question"], row["answer"]) for row in made]
    assert 300 < len(MathDataset(DATA, max_digits=1)) < 500
    assert 100 < sum("*" in question for question, _ in data) < 300


# Splitting and drawing


def test_a_split_holds_out_by_text(load):
    rows_ = problems(*(f"What is {i % 30} + 1?" for i in range(40)), "what  is 3 + 1?")
    for seed in range(20):
        train, held = split(rows_, 10, seed)
        assert len(held) == 10
        assert overlap(train, held) == 0
        assert len({p.question for p in held}) == 10
        assert len({p.question.casefold().replace("  ", " ") for p in train}) == 20


def test_a_split_depends_on_seed_and_texts_not_on_order():
    rows_ = problems(*map(str, range(50)))
    ids = [p.id for p in split(rows_, 10, 1)[1]]
    assert [p.id for p in split(rows_[::-1], 10, 1)[1]] == ids
    assert [p.id for p in split(rows_, 15, 1)[1]][:10] == ids
    assert [p.id for p in split(rows_, 10, 2)[1]] != ids
    assert split(rows_, 0, 1) == (rows_, ())


def test_a_split_leaves_something_to_train_on():
    with pytest.raises(UserError, match="held_out=2, but there are 2 different questions; give 0 to 1"):
        split(problems("a", "b", "a"), 2, 0)


def test_overlap_counts_held_problems_seen_in_training():
    assert overlap(problems("a", "b"), problems("B", " a ", "c", "a")) == 3


@given(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers())
def test_every_epoch_draws_each_problem_once(size, counts, seed):
    rows_ = problems(*map(str, range(size)))
    state, drawn = TrainState(seed=seed), []
    for count in counts:
        drawn += draw(rows_, count, state)
        state = state.advance(count)
    assert [index for index, _ in drawn] == list(range(sum(counts)))
    for start in range(0, len(drawn) - size + 1, size):
        assert {p.id for _, p in drawn[start : start + size]} == {p.id for p in rows_}
    assert drawn == draw(rows_, sum(counts), TrainState(seed=seed))


def test_epochs_and_seeds_have_orders_of_their_own():
    rows_ = problems(*map(str, range(30)))
    first, second = (draw(rows_, 30, TrainState(seed=0, cursor=c)) for c in (0, 30))
    other = draw(rows_, 30, TrainState(seed=1))
    assert len({tuple(p.id for _, p in order) for order in (first, second, other)}) == 3


def test_nothing_can_be_drawn_from_nothing():
    with pytest.raises(UserError, match="no problems to draw from"):
        draw((), 1, TrainState(seed=0))
