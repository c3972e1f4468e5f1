"""One optimizer step: how it is cut up changes nothing, and what must not train does not."""

import functools
import math
import random
from dataclasses import replace

import pytest
import torch

import tiny
from grpocket.algo.losses import Totals
from grpocket.learn import update
from grpocket.learn.batch import Budget, count, micro_batches, pack, split
from grpocket.learn.groups import compare, score
from grpocket.learn.measure import Mismatch
from grpocket.learn.policy import Policy
from grpocket.learn.schedule import learning_rate
from grpocket.learn.update import accumulate, learn, prepare, whole_gradient
from grpocket.model.linear import EffectiveWeights
from grpocket.records import Completion, Reward, Sampling, UserError


def sampled_groups(policy, rewards=((1.0, 0.0, 0.0, 0.5), (0.2, 0.1, 0.9, 0.0), (1.0, 1.0, 1.0, 1.0))):
    questions = ("What is 1 + 2?", "What is 12 - 5 - 4?", "Why?")
    prompts = tiny.prompts(*questions)
    completions = tiny.engine(policy).generate(prompts, Sampling(4, 12, (tiny.EOS, *range(20, 30))))
    problems = [tiny.problem(q) for q in questions]
    values = iter([v for group in rewards for v in group])
    rollouts = score(problems, prompts, completions, policy.decode, tiny.each(lambda p, t: Reward(next(values), {})))
    return compare(problems, rollouts, tiny.Config())


def gradient(policy, groups, token_budget=10_000, live_only=False):
    """The step's gradient, before clipping."""
    totals = count(groups, policy.sampling.max_new_tokens)
    config = tiny.Config(max_new_tokens=12)
    chosen = [g for g in groups if g.is_live] if live_only else groups
    policy.optimizer.zero_grad()
    losses = []
    with policy.network.ready():
        for parts in micro_batches(chosen, Budget(token_budget, token_budget)):
            losses.append(accumulate(policy, pack(parts), totals, config).loss)
    return tiny.gradients(policy).clone(), sum(losses), len(losses)


def test_the_gradient_is_the_same_however_the_step_is_cut():
    policy = tiny.policy(stir=0.1)
    policy.network.model.double()
    policy.network.weights = EffectiveWeights(policy.network.model)
    groups = sampled_groups(policy)
    whole, loss, _ = gradient(policy, groups)
    counts = set()
    for budget in (1, 25, 40, 60, 10_000):
        cut, cut_loss, batches = gradient(policy, groups, budget)
        counts.add(batches)
        torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-6 * whole.abs().max().item())
        assert cut_loss == pytest.approx(loss, abs=1e-6)
    assert {1, 12} <= counts
    assert len(counts) >= 4


def test_the_gradient_is_that_of_the_formula_on_stock_logprobs():
    """-(1/R) sum_r (1/len_r) sum_t ratio * A with ratio 1: one row at a time, by the model's own forward."""
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy)
    mine, _, _ = gradient(policy, groups)
    policy.optimizer.zero_grad()
    rows = [(r, a) for g in groups for r, a in zip(g.rollouts, g.advantages, strict=True)]
    for rollout, advantage in rows:
        prompt, ids = rollout.prompt_ids, rollout.completion.token_ids
        logits = policy.network.lm(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        (-advantage * logprobs.mean() / len(rows)).backward()
    wanted = tiny.gradients(policy)
    torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_groups_without_signal_are_counted_but_need_not_be_run():
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy)
    assert [g.is_live for g in groups] == [True, True, False]
    run, skipped = gradient(policy, groups)[0], gradient(policy, groups, live_only=True)[0]
    torch.testing.assert_close(skipped, run, rtol=1e-5, atol=3e-6 * run.abs().max().item())
    fewer = gradient(policy, groups[:2])[0]
    torch.testing.assert_close(skipped * 12 / 8, fewer, rtol=1e-5, atol=1e-6 * run.abs().max().item())


def test_a_whole_step_counts_the_groups_it_does_not_run():
    groups = sampled_groups(tiny.policy(stir=0.1))
    all_three, live = (learn(tiny.policy(stir=0.1), g, tiny.Config(max_new_tokens=12), 0) for g in (groups, groups[:2]))
    assert all_three["grad_norm"] == pytest.approx(live["grad_norm"] * 8 / 12, rel=1e-4)


def test_the_order_of_groups_and_rows_does_not_matter():
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy)
    turned = [tiny.Group(g.problem, g.rollouts[::-1], g.advantages[::-1], g.trained[::-1]) for g in reversed(groups)]
    one, other = gradient(policy, groups)[0], gradient(policy, turned)[0]
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * one.abs().max().item())


def test_a_row_without_reward_neither_trains_nor_counts():
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy, rewards=((1.0, 0.0, None, 0.5), (0.2, 0.1, 0.9, 0.0), (1.0, 1.0, None, 1.0)))
    assert groups[0].trained == (True, True, False, True)
    assert groups[0].advantages[2] == 0.0
    assert count(groups, 12).responses == 10
    without = [
        tiny.Group(
            g.problem,
            *(tuple(v for v, t in zip(f, g.trained, strict=True) if t) for f in (g.rollouts, g.advantages, g.trained)),
        )
        for g in groups
    ]
    torch.testing.assert_close(gradient(policy, groups)[0], gradient(policy, without)[0])


def test_what_was_sampled_is_what_is_trained_stop_token_and_all():
    ids = (tiny.encode("1")[0], tiny.encode("2")[0], tiny.EOS)
    assert tiny.encode(tiny.tokenizer().decode(list(ids))) != ids  # "12" is one token: text is not the truth
    (prompt,) = tiny.prompts("?")
    group = tiny.group(prompt, (Completion(ids, (-1.0,) * 3, "stop"), Completion((9,), (-1.0,), "length")), (1.0, -1.0))
    batch = pack(list(split(group, 100)))
    assert batch.target_T.tolist() == [*ids, 9]
    assert batch.target_T.tolist().count(tiny.EOS) == 1
    assert batch.row_T.tolist() == [0, 0, 0, 1]
    assert batch.source_T.tolist() == [0, 1, 2, 0]
    assert batch.mask_T.all()


def test_rows_keep_their_own_rewards():
    """Reward = number of the problem: nothing to learn inside any group; duplicates stay apart."""
    problems = [tiny.problem("same"), tiny.problem("same"), tiny.problem("other")]
    completions = [tuple(Completion((at * 4 + s,), (0.0,), "length") for s in range(4)) for at in range(3)]
    value = iter([at for at in range(3) for _ in range(4)])
    rollouts = score(
        problems, tiny.prompts("s", "s", "o"), completions, str, tiny.each(lambda p, t: Reward(float(next(value)), {}))
    )
    groups = compare(problems, rollouts, tiny.Config())
    assert [g.advantages for g in groups] == [(0.0,) * 4] * 3
    assert [r.text for g in groups for r in g.rollouts] == [f"({n},)" for n in range(12)]


def test_a_step_without_signal_moves_nothing_and_is_no_nan():
    policy = tiny.policy(stir=0.1)
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    metrics = learn(policy, sampled_groups(policy, ((1.0,) * 4,) * 3), tiny.Config(max_new_tokens=12), 0)
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in policy.parameters()]), before, rtol=0, atol=0)


def test_a_step_in_which_no_reward_could_be_had_moves_nothing():
    policy = tiny.policy(stir=0.1)
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    groups = sampled_groups(policy, ((None,) * 4,) * 3)
    assert count(groups, 12) == Totals(0, 0, 12)
    metrics = learn(policy, groups, tiny.Config(max_new_tokens=12, kl_coef=0.1), 0)
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in policy.parameters()]), before, rtol=0, atol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_applied(poison):
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy)
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    broken = [replace(groups[0], advantages=(poison, 0.0, 0.0, 0.0)), *groups[1:]]
    metrics = learn(policy, broken, tiny.Config(max_new_tokens=12), 0)
    assert metrics["skipped_steps"] == 1
    assert torch.equal(torch.cat([p.detach().flatten() for p in policy.parameters()]), before)
    assert learn(policy, groups, tiny.Config(max_new_tokens=12), 0)["skipped_steps"] == 0
    assert not torch.equal(torch.cat([p.detach().flatten() for p in policy.parameters()]), before)


def test_the_reported_loss_is_that_of_the_whole_step():
    policy = tiny.policy(stir=0.1)
    groups = sampled_groups(policy)
    tiny.stir_adapter(policy, 0.15, seed=4)  # off-policy, so that the loss is not about 0
    values = set()
    for budget in (1, 50, 10_000):
        totals, losses = count(groups, 12), 0.0
        with policy.network.ready():
            for parts in micro_batches(groups, Budget(budget, budget)):
                losses += accumulate(policy, pack(parts), totals, tiny.Config(max_new_tokens=12)).loss
        values.add(round(losses, 5))
    assert len(values) == 1
    assert abs(values.pop()) > 1e-3


def test_the_first_pass_is_on_policy():
    policy = tiny.policy(stir=0.2)
    metrics = learn(policy, sampled_groups(policy), tiny.Config(max_new_tokens=12), 0)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-5


def test_a_better_answer_becomes_likelier():
    policy = tiny.policy(stir=0.1, learning_rate=1e-3)
    groups = sampled_groups(policy)
    rollouts = [(r, a) for g in groups for r, a in zip(g.rollouts, g.advantages, strict=True) if a]

    def logprobs():
        return torch.stack([policy.stock_logprobs(r.prompt_ids, r.completion.token_ids).mean() for r, _ in rollouts])

    before = logprobs()
    for step in range(3):
        learn(policy, groups, tiny.Config(max_new_tokens=12, learning_rate=1e-3), step)
    advantages = torch.tensor([a for _, a in rollouts])
    assert ((logprobs() - before) * advantages).sum() > 0


def test_only_the_adapter_is_trained_and_in_float32():
    policy = tiny.policy()
    names = [n for n, p in policy.network.model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert all(p.dtype == torch.float32 for p in policy.parameters())


def test_updates_below_the_precision_of_bfloat16_accumulate():
    base = tiny.base_model().to(torch.bfloat16)
    model = tiny.add_adapter(base, tiny.Config(lora_rank=4), "tiny")
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in parameters} == {torch.float32}
    with torch.no_grad():
        for p in parameters:
            p.fill_(1.0)
            for _ in range(100):
                p.add_(1e-5)  # bfloat16 would round each of these away
    torch.testing.assert_close(parameters[0], torch.full_like(parameters[0], 1.001), rtol=1e-5, atol=0)


def test_the_learning_rate_warms_up_and_stays():
    config = tiny.Config(learning_rate=3e-4, warmup_steps=2)
    assert [learning_rate(config, s) for s in range(4)] == pytest.approx([1e-4, 2e-4, 3e-4, 3e-4])


def test_totals_count_what_trains():
    (prompt,) = tiny.prompts("?")
    completions = tuple(Completion((5,) * n, (0.0,) * n, "length") for n in (1, 4, 2))
    group = tiny.group(prompt, completions, (1.0, -1.0, 0.0), trained=(True, False, True))
    assert count([group], 12) == Totals(2, 3, 12)


def test_no_step_ever_holds_the_logits_of_all_tokens(monkeypatch):
    seen = []
    original = update.LOSSES["grpo"]
    monkeypatch.setitem(update.LOSSES, "grpo", lambda *a: seen.append(a[0].shape) or original(*a))
    policy = tiny.policy(stir=0.1)
    learn(policy, sampled_groups(policy), tiny.Config(max_new_tokens=12), 0)
    assert all(len(shape) == 1 for shape in seen)


def shortage(calls, at):
    """A stand-in for policy.logprobs that runs out of memory at its `at`-th call, and once only."""

    def logprobs(self, *args, **kwargs):
        calls.append(len(args[0].parts))
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Policy.logprobs(self, *args, **kwargs)

    return logprobs


@pytest.mark.parametrize("at", [1, 2, 3])
def test_where_memory_runs_out_the_gradient_is_that_of_smaller_micro_batches(at, monkeypatch):
    policy = tiny.policy(stir=0.1)
    groups, config, said, calls = sampled_groups(policy), tiny.Config(max_new_tokens=12, kl_coef=0.1), [], []
    policy.budget = Budget(40, 10_000)
    wanted, _ = gradient_of(policy, groups, config, said)
    assert not said
    policy.budget = Budget(40, 10_000)
    batches = prepare(policy, groups, config, Mismatch())
    assert len(batches) >= 3
    monkeypatch.setattr(policy, "logprobs", functools.partial(shortage(calls, at), policy))
    with policy.network.ready():
        whole_gradient(policy, batches, count(groups, 12), config, said.append)
    got = tiny.gradients(policy)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())
    assert len(said) == 1
    assert "out of memory" in said[0]
    assert policy.budget.limit < 10_000


def gradient_of(policy, groups, config, said):
    batches = prepare(policy, groups, config, Mismatch())
    with policy.network.ready():
        whole_gradient(policy, batches, count(groups, 12), config, said.append)
    found = tiny.gradients(policy)
    policy.optimizer.zero_grad()
    return found, batches


def test_a_single_answer_that_is_too_large_is_named(monkeypatch):
    policy = tiny.policy(stir=0.1)

    def never(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(policy, "logprobs", never)
    with pytest.raises(UserError, match=r"out of memory in the update of a single answer.*max_new_tokens"):
        learn(policy, sampled_groups(policy), tiny.Config(max_new_tokens=12), 0, say=lambda _: None)


def test_another_error_is_not_taken_for_a_shortage(monkeypatch):
    policy = tiny.policy()
    monkeypatch.setattr(policy, "logprobs", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn(policy, sampled_groups(policy), tiny.Config(max_new_tokens=12), 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_step_that_is_not_finite_leaves_every_weight_and_three_in_a_row_stop(bad, monkeypatch):
    policy = tiny.policy(stir=0.1)
    config, said, groups = tiny.Config(max_new_tokens=12), [], sampled_groups(policy)
    before = [p.detach().clone() for p in policy.parameters()]
    good = policy.logprobs

    def poisoned(*args, **kwargs):
        logprobs, entropy = good(*args, **kwargs)
        return logprobs * bad, entropy

    monkeypatch.setattr(policy, "logprobs", poisoned)
    for step in range(2):
        assert learn(policy, groups, config, step, said.append)["skipped_steps"] == 1
    monkeypatch.setattr(policy, "logprobs", good)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert groups[0].problem.id in said[0]
    assert learn(policy, groups, config, 2, said.append)["skipped_steps"] == 0
    monkeypatch.setattr(policy, "logprobs", poisoned)
    for step in range(2):
        learn(policy, groups, config, step, said.append)
    with pytest.raises(UserError, match="3 optimizer steps in a row"):
        learn(policy, groups, config, 2, said.append)


def test_micro_batches_are_balanced_and_the_longest_comes_first():
    policy = tiny.policy()
    rng = random.Random(0)
    (prompt,) = tiny.prompts("a question")
    lengths = [[rng.randint(2, 60) for _ in range(4)] for _ in range(12)]
    groups = [
        tiny.group(prompt, tuple(Completion((5,) * n, (-1.0,) * n, "length") for n in ns), (1.0, -1.0, 0.5, -0.5))
        for ns in lengths
    ]
    cut = micro_batches(groups, Budget(200, 260))
    sizes = [len(pack(parts).ids[0]) for parts in cut]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= 260
    assert min(sizes) >= 0.6 * max(sizes)
    rows = sorted(len(r.completion.token_ids) for parts in cut for part in parts for r in part.rollouts)
    assert rows == sorted(n for ns in lengths for n in ns)
    assert policy.budget.enough <= policy.budget.limit


def test_what_all_prompts_begin_with_costs_a_tenth_at_most():
    prompts = tiny.prompts(*(f"{'the same start ' * 8}{n}" for n in range(20)))
    groups = [
        tiny.group(p, tuple(Completion((5,) * 20, (-1.0,) * 20, "length") for _ in range(4)), (1.0, -1.0, 0.5, -0.5))
        for p in prompts
    ]
    cut = micro_batches(groups, Budget(64, 1 << 20))
    whole = len(pack([part for parts in cut for part in parts]).ids[0])
    assert sum(len(pack(parts).ids[0]) for parts in cut) < 1.11 * whole
    assert len(cut) > 1
