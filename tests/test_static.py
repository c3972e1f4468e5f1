"""Steps of fixed shapes: the same samples as the engine's own way, and nothing in them that a graph can't hold."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import tiny
from grpocket.engine import plain
from grpocket.engine.engine import Engine
from grpocket.engine.static import Shape, StaticSampler, Steps, below, padded_length, suits
from grpocket.model.loading import add_adapter
from grpocket.model.network import Network
from grpocket.records import Prompt, Sampling, StoppedError

SAMPLING = Sampling(num_samples=4, max_new_tokens=10, stop_ids=(tiny.EOS, *range(20, 30)))
QUESTIONS = ("What is 1 + 2?", "What is 30 - 4 + 5?", "W?", "What is 1 + 2?", "<s>user: 1 + 2?</s><s>assistant: ")
SHARED = tuple(f"{'Sums of numbers, please. ' * 4}What is {n} + {n * 7}?" for n in (1, 22, 333))


def static(policy, row_budget=64):
    return Engine(policy.network, row_budget, static=True)


def alike(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert [(c.token_ids, c.finish_reason) for c in one] == [(c.token_ids, c.finish_reason) for c in other]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("questions", [QUESTIONS, SHARED, QUESTIONS[:1], SHARED[:1]], ids=len)
def test_fixed_shapes_write_what_the_other_two_ways_write(family, questions):
    policy = tiny.policy(family, stir=0.1)
    prompts = tiny.prompts(*questions)
    for sampling in (SAMPLING, replace(SAMPLING, temperature=0.7), replace(SAMPLING, num_samples=1, temperature=0.0)):
        fixed = static(policy, 8).generate(prompts, sampling)
        alike(fixed, tiny.engine(policy).generate(prompts, sampling))
        alike(fixed, plain.generate(policy.network, prompts, sampling))
    assert len({len(c.token_ids) for g in static(policy).generate(prompts, SAMPLING) for c in g}) > 1


@pytest.mark.parametrize("row_budget", [1, 4, 8, 12, 64])
def test_how_prompts_are_cut_into_chunks_changes_no_sample(row_budget):
    policy = tiny.policy(stir=0.1)
    prompts = tiny.prompts(*QUESTIONS, *SHARED)
    alike(static(policy, row_budget).generate(prompts, SAMPLING), tiny.engine(policy).generate(prompts, SAMPLING))


@pytest.mark.parametrize("stop", [(), (tiny.EOS,), tuple(range(3, 60)), tuple(range(200))])
def test_rows_may_end_at_any_step_or_never(stop):
    policy = tiny.policy()
    prompts, sampling = tiny.prompts(*QUESTIONS), Sampling(8, 40, stop)
    alike(static(policy).generate(prompts, sampling), tiny.engine(policy).generate(prompts, sampling))


def test_one_token_prompts_and_one_token_answers():
    policy = tiny.policy(stir=0.1)
    prompts = [Prompt((5,), (0, 0, 0)), Prompt((6,), (0, 0, 1))]
    for tokens in (1, 2):
        sampling = Sampling(3, tokens, (2,))
        alike(static(policy).generate(prompts, sampling), tiny.engine(policy).generate(prompts, sampling))


def test_no_prompts_no_completions():
    assert static(tiny.policy()).generate([], SAMPLING) == []


def test_once_all_rows_have_ended_no_more_steps_are_taken(monkeypatch):
    policy, taken, step = tiny.policy(), [], Steps.step
    monkeypatch.setattr(Steps, "step", lambda self: (taken.append(1), step(self)))
    engine = static(policy)
    engine.generate(tiny.prompts(*QUESTIONS), Sampling(4, 100, tuple(range(200))))
    assert taken == []
    engine.generate(tiny.prompts(*QUESTIONS), Sampling(4, 100, tuple(range(20, 60))))
    assert len(taken) in (16, 32, 48)


def test_the_sampler_follows_an_update_and_a_switched_adapter_with_steps_it_has_kept():
    policy = tiny.policy(stir=0.05)
    engine, prompts = static(policy), tiny.prompts(*QUESTIONS)
    before = engine.generate(prompts, SAMPLING)
    tiny.stir_adapter(policy, 0.2, seed=9)
    after = engine.generate(prompts, SAMPLING)
    assert after != before
    alike(after, tiny.engine(policy).generate(prompts, SAMPLING))
    with policy.network.untrained():
        alike(engine.generate(prompts, SAMPLING), tiny.engine(tiny.policy()).generate(prompts, SAMPLING))
    alike(engine.generate(prompts, SAMPLING), after)


def test_nothing_of_an_earlier_call_is_seen_by_a_later_one():
    policy = tiny.policy(stir=0.1)
    engine = static(policy)
    engine.generate(tiny.prompts(*(q + " and so on" for q in SHARED)), SAMPLING)
    for questions in (SHARED, SHARED[:2], QUESTIONS[:3], SHARED):
        prompts = tiny.prompts(*questions)
        alike(engine.generate(prompts, SAMPLING), tiny.engine(policy).generate(prompts, SAMPLING))


def test_steps_are_kept_for_shapes_that_come_again_and_only_a_few():
    policy = tiny.policy()
    engine = static(policy)
    kept = engine._static._kept
    engine.generate(tiny.prompts(*QUESTIONS), SAMPLING)
    (first,) = kept.values()
    tiny.stir_adapter(policy, 0.1)
    engine.generate(tiny.prompts(*QUESTIONS[:-1], "another one?", seed=5), SAMPLING)
    assert list(kept.values()) == [first]
    for tokens in (5, 6, 7):
        engine.generate(tiny.prompts(*QUESTIONS), replace(SAMPLING, max_new_tokens=tokens))
    assert [shape.sampling.max_new_tokens for shape in kept] == [6, 7]


class Watch(TorchDispatchMode):
    """Refuses what stops a device to ask it something, or copies from the host: neither can be recorded."""

    REFUSED = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique", "unique", "masked_select", "where")
    REFUSED += ("isin", "lift_fresh", "scalar_tensor")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, overload = func.name().removeprefix("aten::").partition(".")[::2]
        if name.split(".")[0] in self.REFUSED and (name != "where" or "Scalar" in overload):
            raise AssertionError(f"{func.name()} in a step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_asks_the_host_nothing(family, dtype, monkeypatch):
    policy, step = tiny.policy(family, stir=0.1, model_changes={"dtype": dtype}), Steps.step
    assert policy.network.head.weight.dtype == dtype

    def watched(self):
        with Watch(), monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "tolist", None)
            step(self)

    monkeypatch.setattr(Steps, "step", watched)
    (group, *_) = static(policy).generate(tiny.prompts(*SHARED), SAMPLING)
    assert len(group) == 4


def test_the_watch_sees_a_question():
    with Watch(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool(torch.ones(3).all())


def test_where_memory_runs_out_fewer_rows_write_the_same(monkeypatch):
    policy = tiny.policy(stir=0.1)
    prompts = tiny.prompts(*QUESTIONS)
    wanted = tiny.engine(policy).generate(prompts, SAMPLING)
    engine, calls, hidden = static(policy), [], policy.network.hidden

    def short(*args):
        calls.append(1)
        if len(calls) == 5:
            assert engine._static._kept
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(calls) == 6:
            assert not engine._static._kept
        return hidden(*args)

    monkeypatch.setattr(policy.network, "hidden", short)
    alike(engine.generate(prompts, SAMPLING), wanted)
    assert engine.row_budget == 32
    monkeypatch.setattr(policy.network, "hidden", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(StoppedError, match="lower max_new_tokens or group_size"):
        engine.generate(prompts, SAMPLING)


def test_a_model_on_a_cpu_is_not_run_in_fixed_shapes_unless_asked_and_a_growing_rope_never_by_itself():
    policy = tiny.policy()
    assert Engine(policy.network, 64)._static is None
    assert isinstance(Engine(policy.network, 64, static=True)._static, StaticSampler)
    assert all(suits(tiny.policy(family).network) for family in tiny.FAMILIES)
    growing = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
    assert not suits(tiny.policy(model_changes=growing).network)


def test_sizes_are_rounded():
    assert [below(n) for n in (1, 2, 3, 4, 7, 8)] == [1, 2, 2, 4, 4, 8]
    assert [padded_length(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_runs_on_tensors_without_values(family):
    """Nothing in it depends on a number, and no tensor of another device gets into it."""
    with torch.no_grad(), torch.device("meta"):
        base = tiny.base_model(family, dtype=torch.bfloat16)
        network = Network(add_adapter(base, tiny.Config(lora_rank=4), "tiny"))
    pair = torch.zeros(2, 2, 64, 16, dtype=torch.bfloat16, device="meta")
    steps = Steps(network, Shape(SAMPLING, prompts=2, prefix=64, prompt=64), [(pair, pair)] * 2)
    with torch.no_grad(), network.ready(), Watch():
        steps.step()
    assert {t.device.type for t in (steps.tokens, steps.logprobs, steps.ended, steps.ids)} == {"meta"}


class Recording(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations of one step and the tensors they touched, without its Python."""

    def __init__(self, step):
        super().__init__()
        self.operations = []
        with self:
            step()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        now = {}

        def current(x):
            return now.get(id(x), x)

        for func, args, kwargs, out in self.operations:
            new = func(*tree_map(current, args), **kwargs)
            now.update({id(old): made for old, made in zip(tree_leaves(out), tree_leaves(new), strict=True)})


@pytest.fixture
def recorded(monkeypatch):
    """All steps that are made, each recorded as it is on a GPU."""
    made, usual = [], Steps.__init__

    def record(self, *arguments):
        usual(self, *arguments)
        self._graph = Recording(self.step)
        made.append(self)

    monkeypatch.setattr(Steps, "__init__", record)
    return made


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_step_is_all_that_is_needed(family, dtype, recorded, monkeypatch):
    policy = tiny.policy(family, stir=0.1, model_changes={"dtype": dtype})
    engine = static(policy)
    engine.generate(tiny.prompts(*SHARED), SAMPLING)
    monkeypatch.setattr(Steps, "step", None)
    prompts = tiny.prompts(*SHARED[::-1], seed=5)
    got = engine.generate(prompts, SAMPLING)
    assert len(recorded) == 1
    monkeypatch.undo()
    assert got == static(policy).generate(prompts, SAMPLING)


def test_over_a_bfloat16_base_a_recording_outlives_an_update_but_not_a_switched_adapter(recorded, monkeypatch):
    policy = tiny.policy(stir=0.1, model_changes={"dtype": torch.bfloat16})
    engine, prompts = static(policy), tiny.prompts(*SHARED)
    before = engine.generate(prompts, SAMPLING)
    tiny.stir_adapter(policy, 0.2, seed=9)
    after = engine.generate(prompts, SAMPLING)
    assert len(recorded) == 1
    with policy.network.untrained():
        off = engine.generate(prompts, SAMPLING)
    assert len(recorded) == 2
    assert len({str(found) for found in (before, after, off)}) == 3
    monkeypatch.undo()
    assert after == static(policy).generate(prompts, SAMPLING)
    with policy.network.untrained():
        assert off == static(policy).generate(prompts, SAMPLING)
