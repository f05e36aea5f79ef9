"""Every condition leaves the model as it was, and asks for the same answer."""

import pytest
import torch
from conftest import byte_tokenizer

from pmlbook import robustness
from pmlbook.benchmarks import stress_memory
from pmlbook.probe import write


def test_conditions_ask_for_the_same_answer_and_leave_the_model_alone(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    memory = stress_memory(byte_tokenizer(), 6, 1.0, 0)
    adapter = write(model, memory, 4, steps=200, progress=False).adapter
    asked = dict(robustness.conditions(model, byte_tokenizer(), memory, adapter))
    assert len(asked) == 5
    assert all(record.memory.answer_ids == memory.answer_ids for record in asked.values())
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    assert asked["as trained"].exact_match
    assert asked["merged"].p == pytest.approx(asked["as trained"].p, abs=1e-3)
    assert asked["merged, whole model in bf16"].p != pytest.approx(asked["merged"].p, abs=1e-6)
    assert asked["another sentence before the key"].memory.key_ids[-3:] == memory.key_ids[-3:]
