"""NUTS between moves, with steps that follow the state: exact on a funnel that a fixed metric cannot serve."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from scipy.stats import kstest

from hbcal.infer.moves import Moves
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings, Task

WIDE, ALARM = 2.0, 1e-4


def funnel():
    v = numpyro.sample("v", dist.Normal(0.0, WIDE))
    numpyro.sample("x", dist.Normal(jnp.zeros(3), jnp.exp(v)).to_event(1))


def stay(key, sites):
    return sites


def creep(key, sites):
    return {**sites, "v": sites["v"] + 0.3 * jax.random.uniform(key)}


def redraw(key, sites):
    return {**sites, "x": jnp.exp(sites["v"]) * jax.random.normal(key, (3,))}


def steps(sites):
    return {"v": jnp.array(1.0), "x": jnp.exp(sites["v"]) * jnp.ones(3)}


def v_of(move, noise, depth=5, draws=2500):
    task = Task(funnel, start={"v": 0.0, "x": np.zeros(3)}, moves=Moves(move, steps, noise))
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(4, 300, draws, max_tree_depth=depth, workers=0, seed=3)
        sites, stats = sample(task, settings, Path(folder))
    return sites["v"], stats


def p_value(v):
    thin = int(np.ceil(v.size / array_stats.ess(v, chain_axis=0, draw_axis=1))) + 1
    return kstest(v[:, ::thin].ravel() / WIDE, "norm").pvalue


def test_steps_that_follow_a_noisy_copy_keep_the_posterior():
    v, stats = v_of(stay, {"v": 0.5})
    assert p_value(v) > ALARM
    assert stats["diverging"].mean() < 0.002
    assert v.min() < -2.0 * WIDE  # the neck, where a fixed step diverges
    assert v.max() > 2.0 * WIDE


def test_moves_are_part_of_the_chain():
    assert p_value(v_of(redraw, {"v": 0.5}, draws=1000)[0]) > ALARM


def test_a_move_with_a_drift_is_caught():
    assert p_value(v_of(creep, {"v": 0.5}, draws=1000)[0]) < ALARM


def test_a_step_told_by_a_site_without_noise_is_refused():
    with pytest.raises(Exception, match="noise"):
        v_of(stay, {"x": 1.0}, draws=10)


def two_modes(y, real):
    """Most of y is about theta, or, a bridge that many data tear down, all of it is of the few 5 below."""
    theta = numpyro.sample("theta", dist.Normal(0.0, 5.0))
    each = jnp.logaddexp(jnp.log(0.9) - 0.5 * (y - theta) ** 2, jnp.log(0.1) - 0.5 * (y - theta + 5.0) ** 2)
    numpyro.factor("y", (real * each).sum())


def stay_with(key, sites, y, real):
    return sites


def one_step(sites, y, real):
    return {"theta": jnp.array(0.05)}


def more(chain, done, y, real):
    order = np.random.default_rng(chain).permutation(len(y))
    return y, real * (order < len(y) ** done)


def theta_of(grow, folder):
    args = np.random.default_rng(0).normal(size=400), np.ones(400)
    task = Task(two_modes, args, start={"theta": 5.0}, moves=Moves(stay_with, one_step, grow=grow))
    return sample(task, Settings(4, 400, 200, workers=0, seed=1, chunk=50), folder)[0]["theta"]


def test_data_that_grow_lead_out_of_a_mode_that_the_start_is_in(tmp_path):
    grown = theta_of(more, tmp_path / "grown")
    assert np.abs(grown).max() < 1.5
    assert theta_of(None, tmp_path / "whole").min() > 3.5
    for path in sorted((tmp_path / "grown").glob("chain*.npz"))[10:]:  # killed while data grew, and resumed
        path.unlink()
    np.testing.assert_array_equal(theta_of(more, tmp_path / "grown"), grown)
