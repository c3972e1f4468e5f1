"""The Python door, the original's snippet first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import grpocket
import tiny
from grpocket import GPRO, GRPO, MathDataset, UserError
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.rewards import Rewards

README = Path(__file__).parent.parent / "README.md"
ROWS = [
    {"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1), "num_terms": 2, "num_digits": 1} for n in range(8)
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    (tmp_path / "math_tasks.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snippet() -> str:
    """The README's usage code, as it stands there."""
    text = README.read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    return next(block for block in blocks if "GPRO()" in block)


def test_the_snippet_of_the_readme_runs(home):
    (home / "snippet.py").write_text(snippet())
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "snippet.py"], capture_output=True, text=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    assert "8" in done.stdout.splitlines()[-1]


def test_a_step_moves_the_model_and_counts(home):
    trainer = GPRO(group_size=4, max_new_tokens=8, learning_rate=1e-2, lora_rank=2)
    trainer.rewards = Rewards({"digits": (lambda completion, answer: sum(c.isdigit() for c in completion), 1.0)})
    assert isinstance(trainer, GRPO)
    before = [p.detach().clone() for p in trainer.policy.parameters()]
    losses = [trainer.train_step(question, answer) for question, answer in MathDataset("math_tasks.jsonl")]
    assert trainer.step_count == 8
    assert trainer.state.cursor == 8
    assert all(isinstance(loss, float) for loss in losses)
    assert any((p != q).any() for p, q in zip(trainer.policy.parameters(), before, strict=True))


def test_train_evaluate_sample_and_save(home):
    trainer = GRPO(group_size=2, max_new_tokens=4, steps=1, prompts_per_step=2, lora_rank=2, held_out=3)
    result = trainer.train(MathDataset("math_tasks.jsonl"))
    assert len(result.before.answered) == len(result.after.answered) == 3
    assert result.difference.low <= result.difference.value <= result.difference.high
    assert (result.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert 0 <= trainer.evaluate([("What is 1 + 1?", "2")]).accuracy <= 1
    assert isinstance(trainer.sample("What is 1 + 1?"), str)
    trainer.save(home / "mine")
    again = GRPO.from_run(result.folder)
    assert again.sample("What is 1 + 1?") == trainer.sample("What is 1 + 1?")
    assert again.sample("What is 1 + 1?", base=True) == trainer.sample("What is 1 + 1?", base=True)


def test_a_run_that_trains_every_weight_can_be_loaded_again(home):
    trainer = GRPO(group_size=2, max_new_tokens=4, steps=1, prompts_per_step=2, lora_rank=0, held_out=0)
    result = trainer.train(MathDataset("math_tasks.jsonl"))
    tiny.stir_adapter(trainer.policy, 0.3)
    trainer.save(result.folder / "model")
    again = GRPO.from_run(result.folder)
    assert again.sample("What is 1 + 1?") == trainer.sample("What is 1 + 1?")
    assert again.sample("What is 1 + 1?", base=True) == GRPO(max_new_tokens=4).sample("What is 1 + 1?")
    with pytest.raises(UserError, match="not kept"):
        trainer.sample("What is 1 + 1?", base=True)


def test_evaluation_repeats_to_the_token_and_leaves_training_alone(home):
    trainer = GRPO(group_size=2, max_new_tokens=8, lora_rank=2)
    data = MathDataset("math_tasks.jsonl")
    one, other = trainer.evaluate(data), trainer.evaluate(data)
    assert [a.text for a in one.answered] == [a.text for a in other.answered]
    assert [a.text for a in one.answered] == [trainer.sample(question) for question, _ in data]  # greedy
    assert trainer.step_count == 0


def test_held_out_problems_are_not_trained_on(home):
    trainer = GRPO(held_out=3, lora_rank=2)
    train, held = trainer.split(MathDataset("math_tasks.jsonl"))
    assert len(train) == 5
    assert not {p.question for p in train} & {p.question for p in held}
    with pytest.raises(UserError, match="held-out problems are also in the training data"):
        trainer.split([("a", "1"), ("b", "2")], [("b", "2")])


def test_a_prefilled_think_is_part_of_the_graded_text(home):
    trainer = GRPO(prefill_think=True, lora_rank=2)
    assert trainer.policy.decode(tiny.encode("hm</think>")) == "<think>hm</think>"
    assert tiny.tokenizer().decode(list(trainer.policy.render(tiny.problem("?")))).endswith("<think>")


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match="did you mean group_size"):
        GRPO(grup_size=4)


def test_the_public_names_are_there_and_torch_waits():
    for name in grpocket.__all__:
        assert getattr(grpocket, name) is not None
    with pytest.raises(AttributeError):
        _ = grpocket.nothing
    code = (
        "import grpocket, sys; assert 'torch' not in sys.modules; grpocket.UserError; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
