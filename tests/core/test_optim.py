"""Optimisers as pure values."""

import numpy as np
import pytest
import torch

from fedrec.core.optim import Adam, Plain, from_settings
from fedrec.core.params import SharedParams
from fedrec.errors import WrongInput


def params(*values: float) -> SharedParams:
    return SharedParams({"items": np.array(values, dtype=np.float32)})


def test_plain_with_rate_one_is_the_identity():
    gradient = params(1.0, -2.0)
    assert Plain().apply({}, params(0.0, 0.0), gradient) == (gradient, {})


def test_plain_scales_and_keeps_the_sign():
    step, _ = Plain(lr=0.5).apply({}, params(0.0), params(3.0))
    assert step["items"] == 1.5


def test_the_first_adam_step_is_the_learning_rate_against_the_sign():
    adam = Adam(lr=0.1, weight_decay=0.0)
    step, state = adam.apply(adam.init(params(0.0, 0.0)), params(0.0, 0.0), params(4.0, -0.5))
    np.testing.assert_allclose(step["items"], [-0.1, 0.1], rtol=1e-6)
    assert state["t"][0] == 1


def test_weight_decay_draws_to_zero_without_a_gradient():
    adam = Adam(lr=0.1, weight_decay=0.5)
    step, _ = adam.apply(adam.init(params(2.0)), params(2.0), params(0.0))
    assert step["items"][0] == pytest.approx(-0.1)  # .1 * .5 * 2


def test_adam_is_torch_adamw():
    rng = np.random.default_rng(0)
    theta = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(5, 3))))
    reference = torch.optim.AdamW([theta], lr=0.03, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.03)
    ours, shared = Adam(), SharedParams({"items": theta.detach().numpy().astype(np.float32)})
    state = ours.init(shared)
    for _ in range(20):
        gradient = rng.normal(size=(5, 3)).astype(np.float32)
        theta.grad = torch.from_numpy(gradient.astype(np.float64))
        reference.step()
        step, state = ours.apply(state, shared, SharedParams({"items": gradient}))
        shared = SharedParams({"items": shared["items"] + step["items"]})
    np.testing.assert_allclose(shared["items"], theta.detach().numpy(), atol=2e-6)


def test_steps_are_float32_state_is_a_flat_dict_of_arrays_and_inputs_stay():
    adam, shared, gradient = Adam(), params(1.0), params(2.0)
    state = adam.init(shared)
    step, after = adam.apply(state, shared, gradient)
    assert step["items"].dtype == np.float32
    assert set(after) == {"m.items", "v.items", "t"}
    assert all(isinstance(array, np.ndarray) for array in after.values())
    assert (state["m.items"] == 0).all()
    assert state["t"][0] == 0
    assert (shared["items"][0], gradient["items"][0]) == (1.0, 2.0)


def test_a_statistic_is_no_gradient():
    adam = Adam()
    with pytest.raises(WrongInput, match="gradient of every shared tensor"):
        adam.apply(adam.init(params(1.0)), params(1.0), SharedParams({"gram": np.zeros(1)}))


def test_the_optimiser_of_a_plan_for_one_site_alone():
    table = {"name": "adam", "lr": 0.1, "beta2": 0.5, "inner": "weighted-mean", "inner_by": "interactions"}
    assert from_settings(table) == Adam(lr=0.1, beta2=0.5)
    assert from_settings({"name": "sum"}) == Plain()
