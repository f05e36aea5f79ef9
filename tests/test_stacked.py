"""Training K adapters together is training each alone."""

import numpy as np
import pytest
import torch
from conftest import tiny_llama

from pmlbook.data import Memory
from pmlbook.probe import write
from pmlbook.stacked import Job, write_stacked


def jobs(n=5, steps=25):
    rng = np.random.default_rng(0)
    return [
        Job(
            name=i,
            memory=Memory(rng.integers(2, 258, 3 + i % 2), rng.integers(2, 258, 6 + i % 3)),
            r=(1, 4, 2)[i % 3],
            seed=i,
            steps=steps + i,
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_equals_writing_each_alone(model, slots):
    runs = {
        run.job.name: run
        for run in write_stacked(model, jobs(), layer=2, slots=slots, end_early=False)
    }
    assert sorted(runs) == [0, 1, 2, 3, 4]
    for job in jobs():
        alone = write(
            model, job.memory, job.r, layer=2, steps=job.steps, seed=job.seed, progress=False
        )
        run = runs[job.name]
        assert run.ended == "budget" and len(run.losses) == job.steps
        np.testing.assert_allclose(run.losses, alone.losses, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            run.adapter(2, "down_proj").delta_weight(),
            alone.adapter.delta_weight(),
            rtol=1e-2,
            atol=1e-3,
        )


def test_recited_at_is_the_first_step_with_every_token_right(model):
    job = jobs(2, steps=300)[1]
    (run,) = write_stacked(model, [job], layer=2, slots=1, end_early=False)
    alone = write(
        model, job.memory, job.r, layer=2, steps=job.steps, seed=job.seed, progress=False,
        record_at=range(job.steps),
    )  # fmt: skip
    assert run.recited_at == alone.recited_at
    assert run.recited_at is not None


def test_the_model_is_left_as_it_was_found(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    for run in write_stacked(model, jobs(3), layer=2, slots=2):
        assert [type(module) for module in model.modules()] == kinds, run.job.name
        break  # a reader who stops listening
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_saturated_run_ends_early_and_its_place_is_taken(model):
    easy = [Job(i, Memory((5,), (7 + i,)), r=4, seed=0, steps=400) for i in range(3)]
    sizes = []
    runs = list(write_stacked(model, easy, layer=2, slots=2, on_step=sizes.append))
    assert [run.ended for run in runs] == ["saturated"] * 3
    assert all(len(run.losses) < 400 for run in runs)
    assert max(sizes) == 2


def test_a_stalled_run_decays_at_once(model):
    stuck = Job("stuck", Memory((5,), (7,)), r=1, seed=0, steps=1000, lr=1e-12)
    (run,) = write_stacked(model, [stuck], layer=2)
    assert run.ended == "stalled"
    assert len(run.losses) == round(100 / 0.7)


def test_a_run_that_is_no_number_fails_alone(model):
    broken = Job("broken", Memory((5,), (7, 8)), r=1, seed=0, steps=30, lr=float("inf"))
    fine = Job("fine", Memory((5,), (9, 8)), r=1, seed=0, steps=30)
    runs = {
        run.job.name: run for run in write_stacked(model, [broken, fine], layer=2, end_early=False)
    }
    assert runs["broken"].ended.startswith("failed: loss is nan at step")
    alone = write(model, fine.memory, 1, layer=2, steps=30, progress=False)
    np.testing.assert_allclose(runs["fine"].losses, alone.losses, rtol=1e-3, atol=1e-4)


def test_bad_input_is_refused_before_anything_changes():
    model = tiny_llama()
    with pytest.raises(ValueError, match="no linear module 'nothing'"):
        next(write_stacked(model, jobs(1), layer=2, target="nothing"))
    with pytest.raises(ValueError, match="token 999"):
        next(write_stacked(model, [Job(0, Memory((1,), (999,)), 1, 0, 5)], layer=2))
