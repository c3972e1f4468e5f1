"""LoRA beside a base that is not float32: PEFT's own outputs and gradients, and where its products lie."""

import pytest
import torch

import tiny

SIBLINGS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
)


def half_policy(**settings):
    policy = tiny.policy("qwen2", model_changes={"dtype": torch.bfloat16}, **settings)
    assert policy.network.head.weight.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())
    return policy


def run(policy, layers, x, upstream):
    """Outputs, and gradients by the input and the adapters, of layers that are fed the same tensor."""
    policy.optimizer.zero_grad()
    x = x.clone().requires_grad_()
    outputs = [layer(x) for layer in layers]
    sum((y.float() * u).sum() for y, u in zip(outputs, upstream, strict=True)).backward()
    return [*outputs, x.grad, *(p.grad for layer in layers for p in layer.parameters() if p.requires_grad)]


@pytest.mark.parametrize(("parent", "names"), SIBLINGS)
def test_layers_fed_together_give_what_peft_gives_and_follow_an_update(parent, names):
    policy = half_policy()
    layers = [getattr(getattr(policy.network.backbone.layers[0], parent), name) for name in names]
    x = torch.randn(3, 5, layers[0].in_features).bfloat16()
    upstream = [torch.randn(3, 5, layer.out_features) for layer in layers]
    found = []
    for seed in (1, 2):
        tiny.stir_adapter(policy, 0.3, seed)
        wanted = run(policy, layers, x, upstream)
        with policy.network.weights.in_use():
            got = run(policy, layers, x, upstream)
            with torch.inference_mode():
                sampled = [layer(x) for layer in layers]
        for ours, theirs in zip(got, wanted, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, atol=0.015 * theirs.abs().max().item(), rtol=0)
        assert all(torch.equal(a, b) for a, b in zip(sampled, got, strict=False))
        found.append(got[0])
    assert (found[0] - found[1]).abs().max() > 0.3 * found[0].abs().max()


def wiring(policy):
    with torch.inference_mode(), policy.network.ready():
        return policy.network.wiring()


def test_over_a_bfloat16_base_an_update_moves_nothing_and_a_switched_adapter_does():
    policy = half_policy()
    before = wiring(policy)
    assert policy.network.weights.reads()
    tiny.stir_adapter(policy, 0.1)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    policy.optimizer.step()
    with policy.network.ready():  # as the update is run: outside inference mode
        assert policy.network.wiring() == before
    assert wiring(policy) == before
    with policy.network.untrained():
        assert wiring(policy) != before


def test_weights_that_are_exchanged_lie_elsewhere():
    policy = tiny.policy(lora_rank=0)
    policy.network.keep_untrained()
    before = wiring(policy)
    with policy.network.untrained():
        assert wiring(policy) != before
    assert wiring(policy) == before
