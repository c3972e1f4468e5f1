"""Settings of the objective in the loop: passes, KL, correction, truncation, dynamic sampling, schedules, presets."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from grpocket.config import Config
from grpocket.engine.engine import ScriptedEngine
from grpocket.learn import loop, update
from grpocket.learn.batch import count
from grpocket.learn.groups import compare, penalise_kl, penalise_length, score
from grpocket.learn.objective import describe
from grpocket.learn.schedule import learning_rate, temperature
from grpocket.learn.update import learn, prepare
from grpocket.records import Completion, Reward, Sampling, TrainState, UserError
from grpocket.settings import PRESETS, from_values
from test_loop import Recorder, train

LOSSES = ("grpo", "dapo", "dr_grpo", "gspo", "cispo", "pg")


def digits(problem, text):
    return Reward(sum(c.isdigit() for c in text) / 8, {})


def sampled(policy, config, rewards=((1.0, 0.0, 0.0, 0.5), (0.2, 0.1, 0.9, 0.0), (0.5,) * 4, (0.1, 0.2, 0.0, 0.3))):
    questions = ("What is 1 + 2?", "What is 12 - 5 - 4?", "Why?", "Who?")
    prompts = tiny.prompts(*questions)
    completions = tiny.engine(policy).generate(prompts, Sampling(4, 12, (tiny.EOS, *range(20, 30))))
    values = iter([v for group in rewards for v in group])
    problems = [tiny.problem(q) for q in questions]
    rollouts = score(problems, prompts, completions, policy.decode, tiny.each(lambda p, t: Reward(next(values), {})))
    return compare(problems, rollouts, config)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns_the_toy(loss):
    clip = {"clip_low": 3e-3, "clip_high": 4e-3} if loss == "gspo" else {}
    _, run = train(digits, steps=40, loss=loss, **clip)
    assert run.rewards[0] < 0.25
    assert sum(run.rewards[-5:]) / 5 >= 0.8


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "gspo"])
def test_ratio_and_clip_come_alive_with_more_than_one_pass(loss):
    policy = tiny.policy(stir=0.1)
    config = Config(max_new_tokens=12, loss=loss, learning_rate=5e-3, warmup_steps=0, clip_low=0.01)
    groups = sampled(policy, config)
    once = learn(policy, groups, config, 0)
    assert once["ratio"] == pytest.approx(1, abs=1e-5)
    assert once["clip_ratio/region_mean"] == 0
    policy = tiny.policy(stir=0.1)
    thrice = learn(policy, groups, replace(config, num_updates=3), 0)
    assert thrice["ratio"] != pytest.approx(1, abs=1e-4)
    assert thrice["clip_ratio/region_mean"] > 0
    both = thrice["clip_ratio/low_mean"] + thrice["clip_ratio/high_mean"]
    assert both == pytest.approx(thrice["clip_ratio/region_mean"])
    assert thrice["sampling/sampling_logp_difference/max"] < 1e-5  # measured before anything moved


def test_passes_and_minibatches_are_optimizer_steps(monkeypatch):
    seen = []
    original = update.move
    monkeypatch.setattr(update, "move", lambda *a: seen.append(1) or original(*a))
    policy = tiny.policy(stir=0.1)
    config = Config(max_new_tokens=12, num_updates=3, num_minibatches=2)
    learn(policy, sampled(policy, config), config, 0)
    assert len(seen) == 6


@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_kl_in_the_loss_pulls_towards_the_reference(kl):
    config = Config(max_new_tokens=12, kl_coef=10.0, kl=kl, learning_rate=1e-2, warmup_steps=0)
    policy = tiny.policy(stir=0.3)
    groups = sampled(policy, config, ((0.5,) * 4,) * 4)  # no signal: the KL is all there is
    found = [learn(policy, groups, config, step)["kl"] for step in range(8)]
    assert found[0] > 0.01
    assert found[-1] < 0.7 * found[0]


def test_without_kl_no_reference_is_run(monkeypatch):
    policy = tiny.policy(stir=0.1)
    monkeypatch.setattr(policy.network, "untrained", lambda: pytest.fail("the reference was run"))
    config = Config(max_new_tokens=12)
    assert "kl" not in learn(policy, sampled(policy, config), config, 0)


def test_the_reference_is_the_untrained_model_and_the_adapter_comes_back():
    policy, base = tiny.policy(stir=0.3), tiny.policy()
    config = Config(max_new_tokens=12, kl_coef=0.1)
    groups = sampled(policy, config)
    (batch,) = prepare(policy, groups, config, update.Mismatch())
    with torch.no_grad(), base.network.ready():
        wanted, _ = base.logprobs(batch)
    torch.testing.assert_close(batch.reference_logprobs_T, wanted)
    assert not batch.reference_logprobs_T.requires_grad
    with torch.no_grad(), policy.network.ready():
        torch.testing.assert_close(policy.logprobs(batch)[0], batch.old_logprobs_T, atol=1e-5, rtol=0)


def test_when_every_weight_is_trained_the_reference_is_a_frozen_copy():
    policy, base = tiny.policy(lora_rank=0, kl_coef=0.1), tiny.policy(lora_rank=0)
    config = Config(max_new_tokens=12, kl_coef=0.1, learning_rate=1e-2, warmup_steps=0)
    groups = sampled(policy, config)
    assert learn(policy, groups, config, 0)["kl"] == pytest.approx(0, abs=1e-6)
    (batch,) = prepare(policy, groups, config, update.Mismatch())
    with torch.no_grad(), base.network.ready():
        torch.testing.assert_close(batch.reference_logprobs_T, base.logprobs(batch)[0])
    with torch.no_grad(), policy.network.ready():
        assert not torch.allclose(batch.reference_logprobs_T, policy.logprobs(batch)[0], atol=1e-3)
    without = tiny.policy(lora_rank=0)
    with pytest.raises(UserError, match="not kept"), without.network.untrained():
        pass


def test_kl_in_the_reward_is_taken_off_it():
    policy = tiny.policy(stir=0.3)
    config = Config(max_new_tokens=12, kl_coef=0.5, kl="k1", kl_in="reward")
    groups = sampled(policy, config)
    for before, after in zip(groups, penalise_kl(policy, groups, config), strict=True):
        for old, new in zip(before.rollouts, after, strict=True):
            with policy.network.untrained():
                reference = policy.stock_logprobs(old.prompt_ids, old.completion.token_ids).sum().item()
            kl = sum(old.completion.logprobs) - reference
            assert new.reward.penalty == pytest.approx(-0.5 * kl, abs=1e-4)
            assert new.reward.value == old.reward.value


def test_the_penalty_moves_advantages_but_is_no_signal():
    config = Config(kl_in="reward", kl_coef=1.0, kl="k1")
    policy = tiny.policy(stir=0.3)
    groups = sampled(policy, config, ((0.5,) * 4,) * 4)
    charged = compare([g.problem for g in groups], penalise_kl(policy, groups, config), config)
    assert not any(g.has_signal for g in charged)
    assert all(g.is_live for g in charged)
    untouched = penalise_kl(tiny.policy(), groups, config)  # an untrained policy: no rounding noise either
    assert {r.reward.penalty for group in untouched for r in group} == {0.0}
    found = learn(policy, charged, config, 0)["kl"]
    tokens = sum(len(r.completion.token_ids) for g in charged for r in g.rollouts)
    assert found == pytest.approx(-sum(r.reward.penalty for g in charged for r in g.rollouts) / tokens)


def test_the_entropy_bonus_raises_entropy():
    policy = tiny.policy(stir=0.3)
    config = Config(max_new_tokens=12, entropy_coef=10.0, learning_rate=1e-2, warmup_steps=0)
    groups = sampled(policy, config, ((0.5,) * 4,) * 4)
    found = [learn(policy, groups, config, step)["entropy"] for step in range(6)]
    assert found[-1] > found[0] + 0.05


def test_a_sampler_that_is_not_exact_is_corrected():
    """Log-probs recorded too low by 0.3: the trainer's own become the old ones, the weights exp(0.3)."""
    policy = tiny.policy(stir=0.1)
    config = Config(max_new_tokens=12, correction=True)
    groups = [shifted(group, -0.3) for group in sampled(policy, config)]
    metrics = learn(policy, groups, config, 0)
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.3, abs=1e-4)
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(math.exp(0.3), abs=1e-3)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    capped = learn(tiny.policy(stir=0.1), groups, replace(config, correction_cap=1.1), 0)
    assert capped["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.1, abs=1e-3)
    plain = learn(tiny.policy(stir=0.1), groups, replace(config, correction=False), 0)
    assert plain["ratio"] == pytest.approx(math.exp(0.3), abs=1e-3)


def shifted(group, by):
    def moved(rollout):
        logprobs = tuple(x + by for x in rollout.completion.logprobs)
        return replace(rollout, completion=replace(rollout.completion, logprobs=logprobs))

    return replace(group, rollouts=tuple(map(moved, group.rollouts)))


def test_truncated_rows_count_in_their_group_but_not_in_the_loss():
    completions = [tuple(Completion((5, 6), (0.0, 0.0), reason) for reason in ("stop", "length", "stop", "stop"))]
    values = iter((1.0, 0.0, 0.5, 0.5))
    problems = [tiny.problem("?")]
    rollouts = score(problems, tiny.prompts("?"), completions, str, tiny.each(lambda p, t: Reward(next(values), {})))
    (kept,) = compare(problems, rollouts, Config())
    (masked,) = compare(problems, rollouts, Config(mask_truncated=True))
    assert masked.advantages == kept.advantages
    assert kept.trained == (True,) * 4
    assert masked.trained == (True, False, True, True)
    assert count([masked], 12).responses == 3


def test_the_overlong_penalty_is_a_part_of_the_reward():
    (group,) = sampled(tiny.policy(), Config())[:1]
    config = Config(max_new_tokens=12, overlong_buffer=10)
    for before, after in zip(group.rollouts, penalise_length(group.rollouts, config), strict=True):
        wanted = -max(0, len(before.completion.token_ids) - 2) / 10
        assert after.reward.parts["overlong"] == pytest.approx(wanted)
        assert after.reward.value == pytest.approx(before.reward.value + wanted)
    assert penalise_length(group.rollouts, Config()) == group.rollouts


def test_groups_without_signal_are_replaced_within_the_budget():
    """Only problems with an odd number have signal; four are wanted, drawn in order."""
    asked = []

    def draw(wanted, state):
        asked.append((wanted, state.cursor))
        return [(i, tiny.problem(str(i))) for i in range(state.cursor, state.cursor + wanted)]

    def collect(extra):
        asked.clear()
        engine = ScriptedEngine(lambda prompt, sample: (*tiny.encode("ab"[sample % 2]), tiny.EOS))
        policy = tiny.policy()
        reward = lambda p, t: Reward(float(t == "a" and int(p.question) % 2), {})  # noqa: E731
        config = Config(max_new_tokens=12, group_size=4, extra_groups=extra)
        setup = loop.Setup(config, policy, engine, tiny.each(reward), draw, Recorder())
        return [[int(g.problem.question) for g in part] for part in loop.collect(setup, TrainState(0))]

    assert collect(0) == [[1, 3, 0, 2], []]
    assert collect(2) == [[1, 3, 5, 0], [2, 4]]
    assert asked == [(4, 0), (2, 4)]
    assert collect(20) == [[1, 3, 5, 7], [0, 2, 4, 6]]


def test_schedules_by_hand():
    config = Config(learning_rate=1.0, warmup_steps=2, steps=12)
    rates = {
        s: [learning_rate(replace(config, schedule=s), n) for n in (0, 1, 2, 7, 12)]
        for s in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert rates["linear"] == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])
    assert rates["cosine"] == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])
    assert learning_rate(replace(config, schedule="cosine"), 4) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 5))
    cooling = replace(config, temperature=1.2, final_temperature=0.8, steps=5)
    assert [temperature(cooling, n) for n in range(6)] == pytest.approx([1.2, 1.1, 1.0, 0.9, 0.8, 0.8])
    assert temperature(config, 9) == 1.0


def test_a_changing_temperature_keeps_sampler_and_trainer_together():
    _, run = train(digits, steps=3, temperature=1.5, final_temperature=0.5)
    assert all(u["sampling/sampling_logp_difference/max"] < 2e-5 for _, _, u in run.steps)


def test_presets_are_settings_and_the_users_own_win():
    assert from_values({"preset": "dapo"}).clip_high == 0.28
    assert from_values({"preset": "dapo", "clip_high": 0.3}).clip_high == 0.3
    for name, settings in PRESETS.items():
        assert {key: getattr(from_values({"preset": name}), key) for key in settings} == settings
    rloo = from_values({"preset": "rloo"})
    assert (rloo.loss, rloo.advantage_baseline, rloo.advantage_scale) == ("pg", "leave_one_out", "none")


def test_the_documentation_lists_the_presets_as_they_are():
    text = (Path(__file__).parent.parent / "docs" / "algorithms.md").read_text(encoding="utf-8")
    for name, settings in PRESETS.items():
        listed = ", ".join(f"`{key}={value}`" for key, value in settings.items())
        assert f"| `{name}` | {listed} |" in text


@pytest.mark.parametrize("loss", LOSSES)
def test_the_objective_is_told_as_it_is(loss):
    clip = {} if loss in ("cispo", "pg") else {"clip_low": 0.1, "clip_high": 0.3}
    config = Config(loss=loss, kl_coef=0.01, kl="k2", entropy_coef=0.02, **clip)
    told = describe(config, "float32")
    assert "0.01 k2" in told
    assert "0.02 entropy" in told
    assert ("[0.9, 1.3]" in told) == (loss not in ("cispo", "pg"))
    assert "R = 32 responses" in told
    assert "no reference" in describe(Config(), "float32")
    assert "leave_one_out" not in told


@pytest.mark.parametrize(
    "settings",
    [
        {"delta": 1.1},
        {"loss": "pg", "num_updates": 2},
        {"num_minibatches": 5},
        {"kl": "k1", "kl_coef": 0.1},
        {"overlong_buffer": 500},
        {"final_temperature": 0.0},
        {"preset": "ppo"},
        {"clip_high": 0.3, "loss": "cispo"},
        {"ratio_cap": 3.0},
        {"loss": "dappo"},
        {"steps": "10"},
        {"rewards": "format"},
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        from_values(settings)
