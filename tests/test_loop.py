"""The loop on tasks small enough to be learned while one waits."""

import functools
from contextlib import nullcontext

import pytest
import torch

import tiny
from grpocket.engine.engine import ScriptedEngine
from grpocket.learn import loop
from grpocket.learn.selfcheck import self_check
from grpocket.records import Reward, TrainState, UserError
from grpocket.tasks.draw import draw


class Recorder:
    """A run that keeps every step in memory."""

    def __init__(self):
        self.steps = []

    def timer(self, name):
        return nullcontext()

    def say(self, text):
        raise AssertionError(text)

    def log(self, state, groups, dropped, update):
        self.steps.append((state, groups, update))

    @property
    def rewards(self):
        return [sum(r.reward.value for g in groups for r in g.rollouts) / 32 for _, groups, _ in self.steps]


def train(reward, steps, questions=("a", "b", "c", "d"), engine=None, **settings):
    settings = {"max_new_tokens": 8, "group_size": 8, "learning_rate": 1e-2, "lora_rank": 8, "steps": steps} | settings
    policy = tiny.policy(**settings)
    run = Recorder()
    problems = [tiny.problem(q, name=q) for q in questions]
    chosen = functools.partial(draw, problems)
    setup = loop.Setup(tiny.Config(**settings), policy, engine or tiny.engine(policy), tiny.each(reward), chosen, run)
    loop.train(setup, TrainState(0))
    return policy, run


def test_a_toy_is_learned():
    """Write digits: from about one token in ten to at least nine in ten."""

    def digits(problem, text):
        return Reward(sum(c.isdigit() for c in text) / 8, {})

    _, run = train(digits, steps=40)
    assert run.rewards[0] < 0.25
    assert sum(run.rewards[-5:]) / 5 >= 0.9


def test_the_toy_is_learned_by_training_every_weight():
    def digits(problem, text):
        return Reward(sum(c.isdigit() for c in text) / 8, {})

    _, run = train(digits, steps=30, lora_rank=0, learning_rate=3e-3)
    assert run.rewards[0] < 0.25
    assert sum(run.rewards[-5:]) / 5 >= 0.9


def test_stopping_can_be_learned_and_so_can_going_on():
    """Only the stop token is paid for: it must be trained although it is the padding token as well."""
    stopped = lambda problem, text: Reward(1 - len(text) / 10, {})  # noqa: E731
    _, run = train(stopped, steps=30)
    ends = [
        sum(r.completion.finish_reason == "stop" for g in groups for r in g.rollouts) / 32 for _, groups, _ in run.steps
    ]
    assert ends[0] < 0.3
    assert sum(ends[-5:]) / 5 > 0.8


def test_a_reward_without_signal_teaches_nothing():
    policy, run = train(lambda problem, text: Reward(0.7, {}), steps=3)
    untouched = tiny.policy(max_new_tokens=8, group_size=8, lora_rank=8)
    for mine, theirs in zip(policy.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [update["loss"] for _, _, update in run.steps] == [0.0] * 3


def test_every_problem_is_drawn_once_an_epoch_and_the_state_advances():
    _, run = train(lambda problem, text: Reward(0.0, {}), steps=3, questions="abcdef", prompts_per_step=2)
    drawn = [g.problem.question for _, groups, _ in run.steps for g in groups]
    assert sorted(drawn) == list("abcdef")
    assert [state for state, _, _ in run.steps] == [TrainState(0, n, 2 * n) for n in (1, 2, 3)]


def test_the_same_seed_gives_the_same_run_and_another_gives_another():
    def vowels(problem, text):
        return Reward(sum(c in "aeiou" for c in text) / 8, {})

    def texts(seed):
        policy = tiny.policy(max_new_tokens=8, group_size=4, learning_rate=1e-2, steps=3)
        run = Recorder()
        chosen = functools.partial(draw, [tiny.problem(q, name=q) for q in "abcdef"])
        config = tiny.Config(max_new_tokens=8, group_size=4, learning_rate=1e-2, steps=3)
        loop.train(loop.Setup(config, policy, tiny.engine(policy), tiny.each(vowels), chosen, run), TrainState(seed))
        return [r.text for _, groups, _ in run.steps for g in groups for r in g.rollouts], [u for _, _, u in run.steps]

    assert texts(0) == texts(0)
    assert texts(0)[0] != texts(1)[0]


def test_the_loop_runs_on_any_engine():
    engine = ScriptedEngine(lambda prompt, sample: (*tiny.encode("yes" if sample % 2 else "no"), tiny.EOS))
    _, run = train(lambda problem, text: Reward(float(text == "yes"), {}), steps=2, engine=engine)
    assert run.rewards == [0.5, 0.5]
    advantages = [a for _, groups, _ in run.steps for g in groups for a in g.advantages]
    assert advantages == pytest.approx([-(0.875**0.5), 0.875**0.5] * 32, rel=1e-5)


def test_the_self_check_agrees_and_refuses_an_engine_that_lies():
    policy = tiny.policy(stir=0.1)
    problems = [tiny.problem("What is 1 + 2?"), tiny.problem("Why?")]
    assert self_check(policy, tiny.engine(policy), problems) < 2e-5
    liar = ScriptedEngine(lambda prompt, sample: (5, 6, 7), logprob=-0.25)
    with pytest.raises(UserError, match=r"-0\.25000"):
        self_check(policy, liar, problems)
    assert self_check(policy, liar, problems, corrected=True) > 0.1
    policy.network.logit_scale = 1.5  # the trainer, and not only the sampler, is wrong
    with pytest.raises(UserError, match="own forward"):
        self_check(policy, tiny.engine(policy), problems, corrected=True)


def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused_with_its_name():
    policy = tiny.policy(max_new_tokens=100)
    assert policy.render(tiny.problem("x" * 924))
    with pytest.raises(UserError, match=r"line 7.*925 tokens.*context of 1024"):
        policy.render(tiny.problem("x" * 925, name="line 7"))
