"""Smoothed weights are ArviZ's, for many sets of draws at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats

from hbcal.numerics.pareto import smooth_weights


@pytest.mark.parametrize("m", [30, 96, 512])
@pytest.mark.parametrize("heavy", [0.3, 1.0, 3.0])
def test_agrees_with_arviz(m, heavy):
    log_weight = heavy * np.random.default_rng(m).normal(size=(40, m)) + 700.0
    share, k_hat = jax.vmap(smooth_weights)(jnp.asarray(log_weight))
    theirs, their_k = array_stats.psislw(-log_weight)
    np.testing.assert_allclose(k_hat, their_k, atol=1e-9)
    np.testing.assert_allclose(share, np.exp(theirs), rtol=1e-8, atol=1e-14)


def test_weights_without_a_tail_stay_as_they_are():
    share, k_hat = smooth_weights(jnp.zeros(100))
    assert np.isnan(k_hat)
    np.testing.assert_allclose(share, 0.01)


def test_a_few_heavy_weights_are_seen():
    """The planted defect: a proposal four times too narrow; its weights must not pass for good."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 20_000))  # k is 15/16; so many draws tell it from 0.7
    _, k_hat = jax.vmap(smooth_weights)(jnp.asarray(0.5 * x**2 - x**2 / 32.0))
    assert np.mean(np.asarray(k_hat) > 0.7) > 0.9
    _, good = jax.vmap(smooth_weights)(jnp.asarray(0.1 * x))
    assert np.mean(np.asarray(good) > 0.7) == 0.0
