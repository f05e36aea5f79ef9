"""MemFT on TRL's fused head: the gradient of whole logits, however the step is cut or packed."""

import pytest
import torch
import trl
from conftest import byte_tokenizer, tiny_llama
from datasets import Dataset

from pmlbook.memft import answer_tokens, weighting
from pmlbook.trl_trainer import MemFTSFTTrainer

# TRL, about itself: it is young, and says so.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    {"prompt": f"{'k' * (1 + i % 3)}{i}:", "completion": "x" * (2 + i) + "yz"} for i in range(8)
]


def train(folder, batch_size, accumulate, method="ot", **settings):
    """One step of SGD at rate 1 on the head: what it moves, the gradient; and its batches."""
    model = tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
    model.lm_head.requires_grad_(True)
    arguments = trl.SFTConfig(
        folder, max_steps=1, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate, max_grad_norm=0.0, optim="sgd", learning_rate=1.0,
        lr_scheduler_type="constant", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        save_strategy="no", logging_strategy="no", gradient_checkpointing=False, **settings,
    )  # fmt: skip
    trainer = MemFTSFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(ROWS), method=method,
        processing_class=byte_tokenizer(),
    )  # fmt: skip
    batches = [dict(batch) for batch in trainer.get_train_dataloader()]
    before = model.lm_head.weight.detach().clone()
    trainer.train()
    return model.lm_head.weight.detach() - before, batches


def by_hand(batches, method):
    """Eq. 8 over whole logits of all the batches together."""
    model = tiny_llama(initializer_range=0.6, tie_word_embeddings=False)
    model.lm_head.requires_grad_(True)
    top = bottom = 0.0
    for batch in batches:
        inputs = {
            k: batch[k] for k in ("input_ids", "attention_mask", "position_ids") if k in batch
        }
        logits = model(**inputs, use_cache=False).logits
        tokens = answer_tokens(logits, batch["labels"], batch.get("position_ids"))
        weights = weighting(method)(tokens)
        top, bottom = top + (weights * tokens.losses).sum(), bottom + weights.sum()
    (gradient,) = torch.autograd.grad(top / bottom, model.lm_head.weight)
    return -gradient


@pytest.mark.parametrize("method", ["sft", "ot", "sw"])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4)])
def test_the_fused_head_gives_the_gradient_of_whole_logits(
    tmp_path, method, batch_size, accumulate
):
    moved, batches = train(tmp_path, batch_size, accumulate, method)
    torch.testing.assert_close(moved, by_hand(batches, method), rtol=1e-3, atol=1e-5)


def test_packed_without_padding(tmp_path):
    moved, batches = train(tmp_path, 8, 1, "sw", padding_free=True, max_length=None)
    (batch,) = batches
    assert batch["input_ids"].shape[0] == 1 and "attention_mask" not in batch
    torch.testing.assert_close(moved, by_hand(batches, "sw"), rtol=1e-3, atol=1e-5)
    padded, _ = train(tmp_path, 8, 1, "sw")
    torch.testing.assert_close(moved, padded, rtol=1e-3, atol=1e-5)
