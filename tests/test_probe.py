"""The probe gives the numbers of the plain peft loop, whatever it saves on the way."""

import numpy as np
import pytest
import torch
from conftest import tiny_llama
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from pmlbook import probe
from pmlbook.data import Memory, collate, random_memory
from pmlbook.lora import Adapter, LoRALinear, as_peft
from pmlbook.probe import Prefix, lr_factor, probe_layer, write
from pmlbook.recall import teacher_forced

RAGGED = [
    Memory((5, 6, 7), (8, 9, 10, 11)),
    Memory((12,), (13, 14)),
    Memory((15, 16, 17, 18, 19), (20, 21, 22, 23, 24, 25)),
]


def peft_losses(model, batches, r, steps, seed, layer, target, lora_alpha=None, lr=1e-2):
    """The plain loop: peft's layer, transformers' loss, the whole model forward at each step."""
    generator = torch.Generator().manual_seed(seed)
    base = model.model.layers[layer].get_submodule(
        {"down_proj": "mlp", "v_proj": "self_attn"}[target]
    )
    start = LoRALinear(getattr(base, target), r, lora_alpha, generator)
    adapter = Adapter(start.lora_A.detach(), start.lora_B.detach(), start.lora_alpha, layer, target)
    wrapped = as_peft(model, adapter)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    losses, order = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, steps)
        if not order:
            order = torch.randperm(len(batches), generator=generator).tolist()
        loss = wrapped(**batches[order.pop()]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("target", ["down_proj", "v_proj"])
@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("memories", [RAGGED[:1], RAGGED])
def test_losses_equal_the_plain_peft_loop_step_by_step(memories, layer, target):
    history = write(
        tiny_llama(), memories, 2, layer=layer, target=target, steps=25, seed=7, progress=False
    )
    want = peft_losses(tiny_llama(), [collate(memories)], 2, 25, 7, layer, target)
    np.testing.assert_allclose(history.losses, want, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(history.losses[:5], want[:5], rtol=1e-5)


def test_minibatches_equal_the_plain_peft_loop():
    history = write(
        tiny_llama(),
        RAGGED,
        2,
        layer=1,
        lora_alpha=6,
        steps=20,
        batch_size=2,
        seed=3,
        progress=False,
    )
    batches = [collate(RAGGED[:2]), collate(RAGGED[2:])]
    want = peft_losses(tiny_llama(), batches, 2, 20, 3, 1, "down_proj", lora_alpha=6)
    np.testing.assert_allclose(history.losses, want, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_split_gives_the_models_own_losses_under_any_padding(model, side):
    batch = collate(RAGGED, padding_side=side)
    flat = Prefix(model, batch, layer=2).token_losses()
    want = np.concatenate([teacher_forced(model, [memory])[0][0] for memory in RAGGED])
    np.testing.assert_allclose(flat.numpy(), want, rtol=1e-4)


def test_the_split_works_for_another_architecture():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    model = Qwen3ForCausalLM(config).eval()
    flat = Prefix(model, collate(RAGGED), layer=1).token_losses()
    want = np.concatenate([teacher_forced(model, [memory])[0][0] for memory in RAGGED])
    np.testing.assert_allclose(flat.detach().numpy(), want, rtol=1e-4)


def test_a_model_that_cannot_be_split_is_refused(model):
    # Something after the layers that the split does not know of: here, a hook on the whole stack.
    model.model.register_forward_hook(
        lambda module, args, output: setattr(
            output, "last_hidden_state", output.last_hidden_state * 2
        )
    )
    with pytest.raises(RuntimeError, match="cannot be resumed at layer 1"):
        Prefix(model, collate(RAGGED), layer=1)


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    runs = [
        write(tiny_llama(), RAGGED, 2, steps=8, batch_size=1, seed=s, progress=False)
        for s in (1, 1, 2)
    ]
    assert runs[0].losses == runs[1].losses
    assert torch.equal(runs[0].adapter.lora_A, runs[1].adapter.lora_A)
    assert runs[0].losses != runs[2].losses


def test_the_history_holds_the_asked_steps_the_start_and_the_end(model):
    history = write(model, RAGGED, 2, steps=12, record_at=[5, 10], progress=False)
    assert [s.step for s in history.snapshots] == [0, 5, 10, 12]
    assert history.lengths == [4, 2, 6]
    assert all(s.token_losses.shape == (12,) for s in history.snapshots)
    assert history.base_loss == pytest.approx(history.losses[0], rel=1e-5)
    assert history.snapshots[1].mean_loss == pytest.approx(history.losses[5], rel=1e-4)
    assert (history.snapshots[0].adapter.lora_B == 0).all()
    assert history.final_loss < history.base_loss
    assert history.adapter is history.snapshots[-1].adapter


def test_recited_at_is_the_first_snapshot_with_every_token_right():
    states = [
        probe.Snapshot(step, np.zeros(2), np.array(correct), adapter=None)
        for step, correct in ((0, [True, False]), (10, [True, True]), (20, [True, True]))
    ]
    assert probe.History([], states, 0.0, [2]).recited_at == 10
    assert probe.History([], states[:1], 0.0, [2]).recited_at is None


def test_a_second_training_goes_on_from_the_first_adapter(model):
    first = write(model, RAGGED, 2, steps=12, lora_alpha=4.0, progress=False)
    more = write(model, RAGGED, 2, steps=3, start=first.adapter, progress=False)
    assert more.base_loss == pytest.approx(first.final_loss, rel=1e-5)
    assert torch.equal(more.snapshots[0].adapter.lora_B, first.adapter.lora_B)
    assert more.adapter.lora_alpha == 4.0
    with pytest.raises(ValueError, match="start is of rank 2 on down_proj"):
        write(model, RAGGED, 3, steps=3, start=first.adapter, progress=False)


def test_stubborn_tokens_are_low_in_each_of_the_last_snapshots():
    at = [np.array(x, dtype=float) for x in ([2, 2, 0.1], [2, 0.1, 2], [2, 2, 2])]
    states = [probe.Snapshot(i, losses, losses < 1, adapter=None) for i, losses in enumerate(at)]
    history = probe.History([], states, 0.0, [3])
    assert history.stubborn(last=1).tolist() == [True, True, True]
    assert history.stubborn(last=2).tolist() == [True, False, True]
    assert history.stubborn(last=3).tolist() == [True, False, False]


def test_the_model_is_left_as_it_was_found(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    write(model, RAGGED, 2, steps=3, progress=False)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_ctrl_c_leaves_the_model_as_it_was_found(model, monkeypatch):
    base = model.model.layers[3].mlp.down_proj
    calls = iter(range(3))

    def interrupt(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(model, RAGGED, 2, layer=3, steps=10, progress=False)
    assert model.model.layers[3].mlp.down_proj is base
    assert not any(isinstance(m, LoRALinear) for m in model.modules())


def test_an_unfrozen_model_gathers_no_gradients():
    model = tiny_llama().requires_grad_(True)
    write(model, RAGGED, 2, steps=2, progress=False)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_default_layer_is_two_thirds_up(model):
    assert probe_layer(model) == 3
    assert write(model, RAGGED, 1, steps=1, progress=False).adapter.layer == 3


def test_the_learning_rate_ends_near_zero():
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[:70] == [1.0] * 70
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r is 0: want a whole number from 1 to 32"),
        ({"layer": 4}, "layer 4 does not exist: this model has layers 0 to 3"),
        ({"target": "mouth"}, "no linear module 'mouth' in layer 3"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, r"lr is 0\.0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_nonsense_is_refused_by_name(model, options, message):
    with pytest.raises(ValueError, match=message):
        write(model, RAGGED, **({"r": 2, "progress": False} | options))


def test_a_loss_that_is_no_number_stops_the_run(model):
    model.lm_head.weight.data[0, 0] = float("inf")
    with pytest.raises((FloatingPointError, RuntimeError)):
        write(model, RAGGED, 2, steps=3, progress=False)


def test_the_real_model_against_the_plain_peft_loop(smollm):
    model, tokenizer = smollm
    memory = random_memory(tokenizer, 12, seed=0)
    history = write(model, memory, 2, layer=28, steps=6, progress=False)
    wrapped_losses = peft_losses(model, [collate([memory])], 2, 6, 0, 28, "down_proj")
    for module in model.modules():  # peft changed the shared model in place: take it out again
        if hasattr(getattr(module, "down_proj", None), "base_layer"):
            module.down_proj = module.down_proj.base_layer
    model.requires_grad_(False)
    np.testing.assert_allclose(history.losses, wrapped_losses, rtol=1e-4)
    assert teacher_forced(model, [memory])[0][0].mean() == pytest.approx(
        history.base_loss, rel=1e-4
    )
