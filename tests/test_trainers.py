"""MemFT inside transformers' Trainer: normalised over the whole step, packed, resumed."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_llama
from transformers import Trainer, TrainingArguments

from pmlbook.curriculum import CurriculumSampler
from pmlbook.data import Memory, collate
from pmlbook.memft import OT, SW, answer_tokens, memft_loss, weighting
from pmlbook.trainers import MemFTLoss, MemFTTrainer

METHODS = ["sft", "ot", "sw"]


def samples() -> list[Memory]:
    """Eight of different lengths; the model below knows some of their tokens, and not others."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda n: torch.randint(2, 258, (n,), generator=generator).tolist()  # noqa: E731
    model, memories = tiny_llama(initializer_range=0.6), []
    for i in range(8):
        ids = draw(3)
        for step in range(3 + i):
            guess = model(torch.tensor([ids])).logits[0, -1].argmax().item()
            ids.append(guess if (step + i) % 3 else draw(1)[0])
        memories.append(Memory(ids[:3], ids[3:]))
    return memories


def train(folder, batch_size, accumulate, method, model=None, steps=1, make=None, **settings):
    """Train the head of a tiny model by plain SGD at rate 1: what it moves is the gradient."""
    model = model or tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
    model.lm_head.requires_grad_(True)
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate, max_grad_norm=0.0, optim="sgd", learning_rate=1.0,
        lr_scheduler_type="constant", report_to="none", disable_tqdm=True, use_cpu=True,
        save_strategy="no", logging_strategy="no", **settings,
    )  # fmt: skip
    make = make or (lambda **common: MemFTTrainer(method=method, **common))
    trainer = make(
        model=model,
        args=arguments,
        train_dataset=samples(),
        data_collator=lambda rows: collate(rows),
    )
    before = model.lm_head.weight.detach().clone()
    trainer.train()
    return (model.lm_head.weight.detach() - before), trainer


def by_hand(method):
    """The gradient of Eq. 8 over all eight samples at once."""
    model = tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
    model.lm_head.requires_grad_(True)
    batch = collate(samples())
    labels = batch.pop("labels")
    tokens = answer_tokens(model(**batch).logits, labels)
    weights = weighting(method)(tokens)
    if method == "ot":
        assert 0 < weights.sum() < len(weights)  # some are active, some not
    (gradient,) = torch.autograd.grad(memft_loss(tokens.losses, weights), model.lm_head.weight)
    return -gradient


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4), (1, 8)])
def test_however_the_step_is_cut_its_gradient_is_that_of_eq_8(
    tmp_path, method, batch_size, accumulate
):
    moved, _ = train(tmp_path, batch_size, accumulate, method)
    torch.testing.assert_close(moved, by_hand(method), rtol=1e-3, atol=1e-6)


def test_a_mean_of_means_would_be_another_gradient(tmp_path):
    """The test above can fail: averaging the loss of micro-batches gives something else."""

    class Naive(MemFTTrainer):
        def compute_loss(self, *args, **kwargs):
            self._step = None  # every micro-batch for itself
            return super().compute_loss(*args, **kwargs) / 4

    moved, _ = train(tmp_path, 2, 4, "ot", make=lambda **common: Naive(method="ot", **common))
    assert (moved - by_hand("ot")).abs().max() > 1e-3


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_trainers import train
moved, trainer = train({folder!r}, 2, 2, "{method}", ddp_backend="gloo")
assert trainer.accelerator.num_processes == 2
if trainer.is_world_process_zero():
    torch.save(moved, {folder!r} + "/moved.pt")
"""


@pytest.mark.parametrize("method", ["ot", "sw"])
def test_two_processes_give_the_gradient_of_one(tmp_path, method):
    code = WORKER.format(tests=os.path.dirname(__file__), folder=str(tmp_path), method=method)
    port = 20_000 + os.getpid() % 20_000
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    moved = torch.load(tmp_path / "moved.pt")
    torch.testing.assert_close(moved, by_hand(method), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_function_alone_is_enough_for_one_micro_batch(tmp_path, method):
    make = lambda **common: Trainer(compute_loss_func=MemFTLoss(method), **common)  # noqa: E731
    moved, _ = train(tmp_path, 8, 1, method, make=make)
    torch.testing.assert_close(moved, by_hand(method), rtol=1e-3, atol=1e-6)


def test_the_loss_function_refuses_to_normalise_wrongly(tmp_path):
    make = lambda **common: Trainer(compute_loss_func=MemFTLoss("ot"), **common)  # noqa: E731
    with pytest.raises(ValueError, match="take MemFTTrainer"):
        train(tmp_path, 2, 4, "ot", make=make)


def test_packed_rows_train_as_padded_ones(tmp_path):
    """All samples in one row, boundaries by position_ids, no attention_mask: the same gradient."""

    def pack(rows):
        ids = [torch.tensor(m.key_ids + m.answer_ids) for m in rows]
        labels = [x.clone() for x in ids]
        for memory, label in zip(rows, labels, strict=True):
            label[: len(memory.key_ids)] = -100
        positions = torch.cat([torch.arange(len(x)) for x in ids])
        return {
            "input_ids": torch.cat(ids)[None],
            "labels": torch.cat(labels)[None],
            "position_ids": positions[None],
        }

    def make(**common):
        return MemFTTrainer(method="sw", **common | {"data_collator": pack})

    moved, _ = train(tmp_path, 8, 1, "sw", make=make)
    torch.testing.assert_close(moved, by_hand("sw"), rtol=1e-3, atol=1e-6)


def test_evaluation_reports_the_plain_mean(tmp_path):
    _, trainer = train(tmp_path, 8, 1, "ot")
    found = trainer.evaluate(samples())["eval_loss"]
    batch = collate(samples())
    labels = batch.pop("labels")
    with torch.no_grad():
        losses = answer_tokens(trainer.model(**batch).logits, labels).losses
    assert found == pytest.approx(losses.mean().item(), rel=1e-4)


def test_patience_survives_a_checkpoint(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    sizes = {}

    def run(folder, steps, resume):
        model = tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
        model.lm_head.requires_grad_(True)
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-4,
            report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no", **settings,
        )  # fmt: skip
        trainer = MemFTTrainer(
            model=model, args=arguments, train_dataset=samples(), method="sw",
            data_collator=lambda rows: collate(rows),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer.weigh.still

    sizes["whole"] = run(tmp_path / "a", 4, None)
    run(tmp_path / "b", 2, None)
    sizes["resumed"] = run(tmp_path / "b", 4, str(tmp_path / "b" / "checkpoint-2"))
    assert sizes["whole"] == sizes["resumed"]
    assert max(count for _, count in sizes["whole"].values()) == 3


def test_the_curriculum_goes_on_where_a_checkpoint_stopped(tmp_path):
    epochs = (2, 4, 6, 8, 10)  # of 8 samples: 2, 3, 5, 6 and 8 of them, two epochs each

    def run(folder, steps, resume=None):
        seen = []
        model = tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
        model.lm_head.requires_grad_(True)
        arguments = TrainingArguments(
            folder, max_steps=steps, num_train_epochs=1, per_device_train_batch_size=2,
            report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no",
            save_strategy="steps", save_steps=9,
        )  # fmt: skip

        def collator(rows):
            seen.extend(row.answer_ids for row in rows)
            return collate(rows)

        MemFTTrainer(
            model=model, args=arguments, train_dataset=samples(), method="ot",
            curriculum=epochs, data_collator=collator,
        ).train(resume_from_checkpoint=resume)  # fmt: skip
        return seen

    whole = run(tmp_path / "a", 20)
    order = list(CurriculumSampler(8, epochs, seed=42))  # the seed of TrainingArguments
    assert whole[:40] == [samples()[i].answer_ids for i in order[:40]]
    run(tmp_path / "b", 9)
    resumed = run(tmp_path / "b", 20, str(tmp_path / "b" / "checkpoint-9"))
    # Going on, the loader may build batches that it skips; what it trains on is the end.
    assert resumed[-22:] == whole[-22:]


def test_a_curriculum_has_epochs_of_its_own(tmp_path):
    make = lambda **common: MemFTTrainer(curriculum=(1, 2, 3, 4, 5), **common)  # noqa: E731
    with pytest.raises(ValueError, match=r"num_train_epochs is 3"):
        train(tmp_path, 2, 1, "ot", make=make, num_train_epochs=3)


def test_a_weighting_with_settings_of_its_own():
    logits = torch.zeros(1, 3, 4)
    labels = torch.tensor([[-100, 1, 2]])
    easy = MemFTLoss(OT(threshold=2.0))(SimpleNamespace(logits=logits), labels)
    assert easy.item() == 0  # ln 4 is below 2
    assert MemFTLoss(SW(threshold=0.1))(SimpleNamespace(logits=logits), labels).item() > 1
    with pytest.raises(ValueError, match="unknown method 'rl'"):
        MemFTLoss("rl")
