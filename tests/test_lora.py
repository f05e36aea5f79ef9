"""LoRA by hand against peft; the model is always given back as it was."""

import math

import pytest
import torch
from conftest import tiny_llama
from torch import nn

from pmlbook.lora import (
    Adapter,
    LoRALinear,
    adapter_attached,
    adapter_merged,
    as_peft,
    find_linear,
    lora_attached,
    lora_parameters,
)

IDS = torch.arange(24).reshape(2, 12) + 2


def some_adapter(model, r=3, layer=2, target="down_proj", lora_alpha=6.0) -> Adapter:
    parent, name = find_linear(model, layer, target)
    linear = getattr(parent, name)
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(r, linear.in_features, generator=generator)
    b = torch.randn(linear.out_features, r, generator=generator)
    return Adapter(a, b, lora_alpha, layer, target)


@pytest.mark.parametrize("target", ["down_proj", "q_proj", "v_proj"])
def test_outputs_and_gradients_equal_pefts(target):
    ours, theirs = tiny_llama(), tiny_llama()
    adapter = some_adapter(ours, target=target)
    wrapped = as_peft(theirs, adapter)
    with lora_attached(ours, 2, target, 3, lora_alpha=6.0) as lora:
        lora.lora_A.data.copy_(adapter.lora_A)
        lora.lora_B.data.copy_(adapter.lora_B)
        got, want = ours(IDS).logits, wrapped(IDS).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        got.square().mean().backward()
        want.square().mean().backward()
        (site,) = [m for m in wrapped.modules() if hasattr(m, "lora_A") and "default" in m.lora_A]
        torch.testing.assert_close(lora.lora_A.grad, site.lora_A["default"].weight.grad)
        torch.testing.assert_close(lora.lora_B.grad, site.lora_B["default"].weight.grad)


def test_merging_changes_no_logit(model):
    adapter = some_adapter(model)
    before = model(IDS).logits
    with adapter_attached(model, adapter):
        apart = model(IDS).logits
    with adapter_merged(model, adapter):
        merged = model(IDS).logits
        assert isinstance(model.model.layers[2].mlp.down_proj, nn.Linear)
    assert not torch.allclose(before, apart, atol=0.1)
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
    assert torch.equal(model(IDS).logits, before)  # unmerged to the last bit


def test_peft_merges_to_the_same_weights(model):
    adapter = some_adapter(model)
    merged = as_peft(tiny_llama(), adapter).merge_and_unload()
    with adapter_merged(model, adapter):
        torch.testing.assert_close(
            merged.model.layers[2].mlp.down_proj.weight, model.model.layers[2].mlp.down_proj.weight
        )


def test_a_fresh_adapter_changes_nothing(model):
    before = model(IDS).logits
    with lora_attached(model, 1, "down_proj", 4):
        assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize("r", [1, 4, 16])
def test_the_start_of_a_does_not_depend_on_the_rank(r):
    lora = LoRALinear(nn.Linear(400, 300), r, generator=torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(400)
    assert lora.lora_A.abs().max() <= bound
    assert lora.lora_A.abs().max() > 0.95 * bound
    assert (lora.lora_B == 0).all()


def test_delta_weight_is_what_forward_adds():
    base = nn.Linear(5, 7)
    lora = LoRALinear(base, 2, lora_alpha=3)
    nn.init.normal_(lora.lora_B)
    x = torch.randn(4, 5)
    torch.testing.assert_close(lora(x) - base(x), x @ lora.delta_weight().T)
    adapter = Adapter(lora.lora_A.data, lora.lora_B.data, 3, 0, "any")
    torch.testing.assert_close(adapter.delta_weight(), lora.delta_weight())


def test_the_scale_is_one_by_default():
    assert LoRALinear(nn.Linear(8, 8), 4).scaling == 1
    assert LoRALinear(nn.Linear(8, 8), 4, lora_alpha=8).scaling == 2


@pytest.mark.parametrize("r", [0, -1, 33, 2.0])
def test_an_impossible_rank_names_its_range(model, r):
    with (
        pytest.raises(ValueError, match=rf"r is {r!r}: want a whole number from 1 to 32"),
        lora_attached(model, 0, "down_proj", r),
    ):
        pass
    assert isinstance(model.model.layers[0].mlp.down_proj, nn.Linear)


def test_an_unknown_target_lists_the_linears(model):
    with pytest.raises(ValueError, match=r"no linear module 'mlp' in layer 0.*q_proj.*down_proj"):
        find_linear(model, 0, "mlp")


def test_the_model_is_given_back_even_after_ctrl_c(model):
    base = model.model.layers[1].mlp.down_proj
    with pytest.raises(KeyboardInterrupt), lora_attached(model, 1, "down_proj", 2):
        raise KeyboardInterrupt
    assert model.model.layers[1].mlp.down_proj is base


@pytest.mark.parametrize("layers", [[1], [0, 3]])
@pytest.mark.parametrize("target", ["down_proj", "k_proj"])
def test_parameter_count_equals_pefts(target, layers):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=5, target_modules=[target], layers_to_transform=layers)
    trained, _ = get_peft_model(tiny_llama(), config).get_nb_trainable_parameters()
    assert lora_parameters(tiny_llama(), 5, target, layers) == trained


def test_an_adapter_counts_its_own_parameters(model):
    adapter = some_adapter(model, r=3)
    assert adapter.r == 3
    assert adapter.parameters == lora_parameters(model, 3, "down_proj", [2])


def test_a_bfloat16_base_keeps_its_dtype_and_a_float32_adapter():
    model = tiny_llama().to(torch.bfloat16)
    with lora_attached(model, 1, "down_proj", 2) as lora:
        assert lora.lora_A.dtype == torch.float32
        assert model(IDS).logits.dtype == torch.bfloat16
