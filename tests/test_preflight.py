"""What is found out before a run, and that finding it out changes nothing."""

import json
from dataclasses import replace

import pytest
import torch

import tiny
from grpocket import GRPO, MathDataset, UserError, memory
from grpocket.config import Config
from grpocket.learn import cost, preflight
from grpocket.learn.loop import Setup, rollout
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.records import Reward, TrainState
from grpocket.run import LastStep
from grpocket.tasks.draw import draw

QUESTIONS = ["Why?", "What is 1 + 2?", "How many?", "Who is it?", "When was that, and where was it?", "Where?"]
PROBLEMS = [tiny.problem(q, name=q) for q in QUESTIONS]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    rows = [{"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1)} for n in range(12)]
    (tmp_path / "math_tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def setup(reward=None, **settings):
    settings = {"max_new_tokens": 10, "group_size": 4, "prompts_per_step": 3, "lora_rank": 4, "steps": 10} | settings
    policy = tiny.policy(**settings)
    reward = reward or (lambda problem, text: Reward(sum(c.isdigit() for c in text) / 10, {}))
    return Setup(
        Config(**settings), policy, tiny.engine(policy), reward, lambda n, state: draw(PROBLEMS, n, state), LastStep()
    )


@pytest.mark.parametrize("lora_rank", [4, 0])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_rehearsal_leaves_everything_as_it_was(lora_rank, kl_coef):
    made = setup(lora_rank=lora_rank, kl_coef=kl_coef)
    policy = made.policy
    weights = [p.detach().clone() for p in policy.network.model.parameters()]
    sampling, generator = policy.sampling, torch.get_rng_state()
    preflight.rehearse(made, PROBLEMS, held_out=2, row_budget=64)
    assert all(torch.equal(p, q) for p, q in zip(policy.network.model.parameters(), weights, strict=True))
    assert all(p.grad is None for p in policy.network.model.parameters())
    assert not policy.optimizer.state
    assert policy.sampling == sampling
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_run_with_a_preflight_is_bitwise_the_run_without_one(home):
    def run(preflight, folder):
        trainer = GRPO(
            group_size=4, max_new_tokens=6, steps=3, prompts_per_step=2, lora_rank=2, learning_rate=1e-2, held_out=3
        )
        trainer = GRPO(replace(trainer.config, preflight=preflight, output_dir=folder))
        trainer.train(MathDataset("math_tasks.jsonl"))
        lines = [json.loads(line) for line in (home / folder / "rollouts.jsonl").read_text().splitlines()]
        moments = [tensor for state in trainer.policy.optimizer.state.values() for tensor in state.values()]
        return lines, trainer.policy.parameters(), moments, trainer.state

    (lines, weights, moments, state), (lines_2, weights_2, moments_2, state_2) = run(True, "a"), run(False, "b")
    assert lines == lines_2
    assert all(torch.equal(p, q) for p, q in zip(weights, weights_2, strict=True))
    assert len(moments) > 0
    assert all(torch.equal(p, q) for p, q in zip(moments, moments_2, strict=True))
    assert state == state_2 == TrainState(0, 3, 6)


def test_the_figures_are_those_of_the_first_step():
    """The first step's answers are foreseen, since random numbers have names."""
    made = setup()
    found = preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)
    groups = rollout(made, TrainState(0), 3)
    rollouts = [r for g in groups for r in g.rollouts]
    assert found.reward == pytest.approx(sum(r.reward.value for r in rollouts) / 12)
    assert found.live == sum(g.has_signal for g in groups) / 3
    assert found.cut == sum(r.completion.finish_reason == "length" for r in rollouts) / 12
    assert found.mean_length == sum(len(r.completion.token_ids) for r in rollouts) / 12
    assert found.sampled == 10
    assert 0 < found.step_seconds < found.run_seconds
    assert 0 < found.memory < found.available


def test_a_rehearsed_update_is_at_full_length_with_the_longest_prompts(monkeypatch):
    made = setup()
    run, asked = cost.run_update, []
    monkeypatch.setattr(
        cost, "run_update", lambda policy, groups, config: asked.append(groups) or run(policy, groups, config)
    )
    preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)
    longest = sorted(QUESTIONS, key=len)[-3:]
    rollouts = [r for group in asked[-1] for r in group.rollouts]
    assert [tiny.tokenizer().decode(list(g.rollouts[0].prompt_ids)) for g in asked[-1]] == longest
    assert [len(r.completion.token_ids) for r in rollouts] == [10] * 12


def test_sampling_goes_on_to_the_full_length_whatever_the_model_wants(monkeypatch):
    made = setup(max_new_tokens=40)
    lengths = []
    generate = made.engine.generate

    def recording(prompts, sampling):
        done = generate(prompts, sampling)
        lengths.append({len(c.token_ids) for group in done for c in group})
        return done

    monkeypatch.setattr(made.engine, "generate", recording)
    preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)
    assert lengths[-1] == {40}
    assert min(lengths[-2]) < 40


def test_the_costliest_micro_batch_keeps_to_the_budget():
    policy = tiny.policy()
    for budget, least, most in ((1 << 20, 12 * 20, 12 * 20 + 40), (70, 36, 70), (10, 20, 40)):
        config = Config(max_new_tokens=20, group_size=4, prompts_per_step=3, token_budget=budget)
        groups = cost.costliest(policy, PROBLEMS[:3], config)
        assert least <= cost.stream_tokens(groups, config) <= most
    assert sum(len(group.rollouts) for group in groups) == 1  # a single row may exceed the budget
    config = Config(max_new_tokens=20, group_size=4, prompts_per_step=3, num_minibatches=3)
    assert sum(len(group.rollouts) for group in cost.costliest(policy, PROBLEMS[:3], config)) == 4


def test_memory_that_will_not_do_is_refused_before_it_is_asked_for(monkeypatch):
    made = setup(max_new_tokens=200, group_size=8, token_budget=4000)
    run, asked = cost.run_update, []
    monkeypatch.setattr(
        cost, "run_update", lambda policy, groups, config: asked.append(groups) or linear(run(policy, groups, config))
    )
    linear = lambda found: found._replace(memory=1e6 * (50 + found.tokens))  # noqa: E731
    monkeypatch.setattr(memory, "available", lambda: 3e9)
    with pytest.raises(
        UserError, match=r"needs about 3\.\d GB, and 3\.0 GB are available.*token_budget=29\d\d"
    ) as error:
        preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)
    assert "\n" not in str(error.value)
    assert len(asked) == 2  # the large one was not tried
    monkeypatch.setattr(memory, "available", lambda: 1e8)
    with pytest.raises(UserError, match="lower max_new_tokens"):
        preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)


def test_a_gpu_that_runs_out_of_memory_says_what_to_set(monkeypatch):
    made = setup()
    run, calls = cost.run_update, []

    def third_fails(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return run(*arguments)

    monkeypatch.setattr(cost, "run_update", third_fails)
    with pytest.raises(UserError, match="gradient_checkpointing"):
        preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)


def test_an_update_that_would_take_too_long_is_foretold_by_the_straight_line(monkeypatch):
    made = setup(max_new_tokens=100)
    monkeypatch.setattr(cost, "LONGEST_SECONDS", 0.0)
    calls = []
    monkeypatch.setattr(
        cost,
        "run_update",
        lambda policy, groups, config: (
            calls.append(1) or cost.Cost(t := cost.stream_tokens(groups, config), 1e6 * t + 5e7, 2.0 * t)
        ),
    )
    found = cost.rehearse_update(made.policy, PROBLEMS[-3:], made.config, 1e12)
    assert len(calls) == 2
    assert found.memory == pytest.approx(1e6 * found.tokens + 5e7)
    assert found.seconds == pytest.approx(2.0 * found.tokens)


def test_long_answers_are_sampled_only_as_far_as_time_allows(monkeypatch):
    made = setup(max_new_tokens=400)
    monkeypatch.setattr(preflight, "ROLLOUT_SECONDS", 1e-6)
    found = preflight.rehearse(made, PROBLEMS, held_out=0, row_budget=64)
    assert found.sampled == 8
    assert found.mean_length > 8 * found.cut
    assert "8 tokens" in found.lines()[0]


def test_answers_of_one_token_can_be_rehearsed():
    found = preflight.rehearse(setup(max_new_tokens=1), PROBLEMS, held_out=2, row_budget=64)
    assert found.mean_length == 1
    assert found.run_seconds > 0


def test_groups_without_signal_cost_samples_but_no_update():
    config = Config(prompts_per_step=4, extra_groups=4)
    assert preflight.expected_groups(config, 1.0) == (pytest.approx(4.8), pytest.approx(4.0))
    assert preflight.expected_groups(config, 0.0) == (8, pytest.approx(8 / 6))
    assert preflight.expected_groups(Config(prompts_per_step=4, entropy_coef=0.1), 0.0) == (4, 4)


def test_evaluations_are_counted():
    assert [Config(steps=16).evaluations_after(step) for step in (0, 15, 16)] == [1, 1, 0]
    assert [Config(steps=10, eval_every=4).evaluations_after(step) for step in (0, 3, 4, 8, 9, 10)] == [
        3,
        3,
        2,
        1,
        1,
        0,
    ]
    assert Config(steps=8, eval_every=4).evaluations_after(0) == 2
    assert Config(steps=0).evaluations_after(0) == 0


def test_the_peak_of_memory_is_seen_and_forgotten():
    memory.reset_peak()
    before = memory.peak()
    held = torch.ones(50_000_000)  # 200 MB
    assert memory.peak() - before > 150e6
    del held
    memory.reset_peak()
    assert memory.peak() < memory.available()


def test_prompts_that_do_not_fit_are_all_named(home):
    rows = [{"question": f"{n}" * (2000 if n in (2, 5) else 5), "answer": "1"} for n in range(8)]
    (home / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"2 prompts longer.*long\.jsonl:3 \(\d+ tokens\), long\.jsonl:6"):
        GRPO(lora_rank=2, max_new_tokens=4, preflight=False).train("long.jsonl")


def test_a_reward_that_raises_is_told_before_the_run(home):
    trainer = GRPO(lora_rank=2, max_new_tokens=4, group_size=2, prompts_per_step=2)
    found = trainer.preflight("math_tasks.jsonl")
    assert "the right answer earns 1.25" in found
    assert "warning" not in found.split("answers   ")[0]
    assert "about" in found.splitlines()[-2] + found.splitlines()[-1]
