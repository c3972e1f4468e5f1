"""The engine against the plain way, and the properties that a group's comparison rests on."""

from dataclasses import replace

import pytest
import torch

import tiny
from grpocket.engine.engine import Engine, ScriptedEngine, choose_row_budget
from grpocket.model.attention import Packed, shared_prefix
from grpocket.model.linear import EffectiveWeights, adapter_of, effective_weight, make_product, packing_works
from grpocket.records import Prompt, Sampling, Segment, UserError

SAMPLING = Sampling(num_samples=4, max_new_tokens=10, stop_ids=(tiny.EOS,))
CHAT = (
    "<s>system: be brief</s><s>user: 1 + 2?</s><s>assistant: "  # stop tokens inside a prompt are tokens like any other
)
QUESTIONS = ("What is 1 + 2?", "What is 30 - 4 + 5?", CHAT, "What is 1 + 2?")


def stock(policy, prompt, completion):
    return policy.stock_logprobs(prompt.token_ids, completion.token_ids)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("row_budget", [64, 8, 1])
def test_recorded_logprobs_are_those_of_the_models_own_forward(family, row_budget):
    policy = tiny.policy(family, stir=0.1)
    prompts = tiny.prompts(*QUESTIONS)
    completions = Engine(policy.network, row_budget).generate(prompts, SAMPLING)
    for prompt, group in zip(prompts, completions, strict=True):
        for completion in group:
            got = torch.tensor(completion.logprobs)
            torch.testing.assert_close(got, stock(policy, prompt, completion), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family):
    policy = tiny.policy(family, stir=0.1)
    greedy = replace(SAMPLING, num_samples=1, temperature=0.0)
    for prompt in tiny.prompts(*QUESTIONS):
        ((completion,),) = tiny.engine(policy).generate([prompt], greedy)
        ids = torch.tensor([prompt.token_ids])
        wanted = policy.network.lm.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=[tiny.EOS]
        )
        assert list(completion.token_ids) == wanted[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("row_budget", [64, 8, 5, 1])
def test_what_else_is_in_the_batch_changes_no_sample(num_samples, row_budget):
    policy = tiny.policy(stir=0.1)
    sampling = replace(SAMPLING, num_samples=num_samples)
    prompts = tiny.prompts(*QUESTIONS, *(f"What is {n} + {n * 7}?" for n in range(12)))
    together = Engine(policy.network, row_budget).generate(prompts, sampling)
    for prompt, group in zip(prompts, together, strict=True):
        (alone,) = tiny.engine(policy).generate([prompt], sampling)
        assert [c.token_ids for c in alone] == [c.token_ids for c in group]
        for one, other in zip(alone, group, strict=True):
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)


def test_noise_differs_between_samples_prompts_steps_and_seeds():
    engine = tiny.engine(tiny.policy())
    ids = tiny.encode("the same question")

    def sampled(key):
        return [c.token_ids for c in engine.generate([Prompt(ids, key)], SAMPLING)[0]]

    found = [answer for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)) for answer in sampled(key)]
    assert len(set(found)) == len(found)
    assert sampled((0, 0, 0)) == sampled((0, 0, 0))


@pytest.mark.parametrize("stop", [(tiny.EOS,), (30, 31), tuple(range(3, 60))])
def test_every_stop_id_ends_a_row_and_is_its_last_token(stop):
    policy = tiny.policy()
    sampling = Sampling(8, 30, stop)
    groups = tiny.engine(policy).generate(tiny.prompts(*QUESTIONS), sampling)
    rows = [c for group in groups for c in group]
    for row in rows:
        assert not set(row.token_ids[:-1]) & set(stop)
        assert (row.finish_reason == "stop") == (row.token_ids[-1] in stop)
        assert row.finish_reason == "stop" or len(row.token_ids) == 30
        assert len(row.logprobs) == len(row.token_ids)
    assert {row.token_ids[-1] for row in rows} & set(stop)


def test_a_prompt_is_left_its_last_token_when_all_share_a_prefix():
    assert shared_prefix([(1, 2, 3), (1, 2, 3)]) == (1, 2)
    assert shared_prefix([(1,), (1, 2)]) == ()
    assert shared_prefix([(1, 2, 3)]) == ()
    assert shared_prefix([(1, 2, 3), (1, 2, 4), (1, 9, 9)]) == (1,)


def test_one_token_prompts_and_one_token_answers():
    policy = tiny.policy(stir=0.1)
    prompts = [Prompt((5,), (0, 0, 0)), Prompt((6,), (0, 0, 1))]
    for group, prompt in zip(tiny.engine(policy).generate(prompts, Sampling(3, 1, (2,))), prompts, strict=True):
        for completion in group:
            assert len(completion.token_ids) == 1
            got = torch.tensor(completion.logprobs)
            torch.testing.assert_close(got, stock(policy, prompt, completion), atol=1e-5, rtol=0)


def test_the_sampler_follows_an_update():
    """HAZARDS 27 and 28: neither weights nor K/V of before may be used after."""
    policy = tiny.policy(stir=0.05)
    engine = tiny.engine(policy)
    (prompt,) = tiny.prompts("What is 1 + 2?")
    ((before, *_),) = engine.generate([prompt], SAMPLING)
    tiny.stir_adapter(policy, 0.2, seed=9)
    moved = stock(policy, prompt, before) - torch.tensor(before.logprobs)
    assert moved.abs().max() > 0.1
    ((after, *_),) = engine.generate([prompt], SAMPLING)
    torch.testing.assert_close(torch.tensor(after.logprobs), stock(policy, prompt, after), atol=1e-5, rtol=0)


def test_with_the_adapter_off_the_base_model_answers():
    stirred, base = tiny.policy(stir=0.3), tiny.policy()
    prompts = tiny.prompts(*QUESTIONS)
    with stirred.network.untrained():
        off = tiny.engine(stirred).generate(prompts, SAMPLING)
    assert [[c.token_ids for c in g] for g in off] == [
        [c.token_ids for c in g] for g in tiny.engine(base).generate(prompts, SAMPLING)
    ]


def test_sampling_never_writes_the_weights_even_when_interrupted():
    policy = tiny.policy(stir=0.1)
    before = {name: value.clone() for name, value in policy.network.model.state_dict().items()}
    engine = tiny.engine(policy)
    original = engine._decode
    engine._decode = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(tiny.prompts(*QUESTIONS), SAMPLING)
    engine._decode = original
    assert all(torch.equal(value, before[name]) for name, value in policy.network.model.state_dict().items())
    assert not any("forward" in vars(module) for module in policy.network.model.modules())


def test_an_adapter_on_a_bfloat16_base_learns_even_if_the_base_was_asked_first():
    """PEFT freezes the adapter's matrices while it is off: they must not be taken for frozen layers."""
    policy = tiny.policy()
    policy.network.lm.to(torch.bfloat16)
    for name, parameter in policy.network.model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    policy.network.weights = EffectiveWeights(policy.network.model)
    with policy.network.untrained(), policy.network.ready():
        pass
    ids, plan = torch.tensor([[5, 6, 7]]), Packed(0, [Segment(0, 3, ())])
    with policy.network.ready():
        policy.network.hidden(ids, torch.tensor([[0, 1, 2]]), plan).float().square().sum().backward()
    assert tiny.gradients(policy).abs().max() > 0


def test_effective_weights_give_what_the_adapter_gives():
    policy = tiny.policy(stir=0.3)
    layer = policy.network.backbone.layers[0].mlp.up_proj
    x = torch.randn(5, 64)
    merged = make_product(effective_weight(layer.base_layer.weight, adapter_of(layer)), None)
    torch.testing.assert_close(merged(x), layer(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(x), layer.base_layer(x), atol=1e-2)


def test_packed_weights_are_optional(monkeypatch):
    x, weight, bias = torch.randn(5, 32), torch.randn(16, 32), torch.randn(16)
    fast = make_product(weight, bias)(x)
    monkeypatch.setattr("grpocket.model.linear.packing_works", lambda: False)
    torch.testing.assert_close(fast, make_product(weight, bias)(x), atol=1e-5, rtol=1e-5)
    assert isinstance(packing_works(), bool)


def test_the_scripted_engine_says_its_script():
    engine = ScriptedEngine(lambda prompt, sample: (7, 8, 2, 9))
    (group,) = engine.generate([Prompt((1,), (0, 0, 0))], Sampling(2, 8, (2,)))
    assert [(c.token_ids, c.finish_reason) for c in group] == [((7, 8, 2), "stop")] * 2
    (group,) = engine.generate([Prompt((1,), (0, 0, 0))], Sampling(1, 2, (2,)))
    assert (group[0].token_ids, group[0].finish_reason) == ((7, 8), "length")


@pytest.mark.parametrize("at", [1, 5])
def test_where_memory_runs_out_fewer_rows_write_the_same(at, monkeypatch):
    policy = tiny.policy(stir=0.1)
    prompts = tiny.prompts(*QUESTIONS)
    wanted = Engine(policy.network, 64).generate(prompts, SAMPLING)
    engine, calls, hidden = Engine(policy.network, 64), [], policy.network.hidden

    def short(*args):
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(*args)

    monkeypatch.setattr(policy.network, "hidden", short)
    got = engine.generate(prompts, SAMPLING)
    assert engine.row_budget == 32
    assert [c.token_ids for g in got for c in g] == [c.token_ids for g in wanted for c in g]


def test_samples_of_one_prompt_that_do_not_fit_are_named(monkeypatch):
    policy = tiny.policy()

    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(policy.network, "hidden", never)
    with pytest.raises(UserError, match="lower max_new_tokens or group_size"):
        tiny.engine(policy).generate(tiny.prompts(*QUESTIONS), SAMPLING)


def test_the_number_of_rows_is_chosen_by_the_memory():
    policy = tiny.policy()
    assert choose_row_budget(policy.network, SAMPLING) == 64
    huge = replace(SAMPLING, max_new_tokens=1 << 40)
    assert choose_row_budget(policy.network, huge) == 1
