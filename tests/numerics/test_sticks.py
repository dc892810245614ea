"""Moves of the order of components leave the prior as it is; one that does not is caught."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import ks_2samp

from hbcal.numerics.sticks import log_weights, reorder, sticks

N, K, PRIOR = 6000, 5, (2.0, 2.0)
ALARM = 1e-4  # of each comparison below


def prior(key):
    key_alpha, key_stick = jax.random.split(key)
    alpha = jax.random.gamma(key_alpha, PRIOR[0]) / PRIOR[1]
    stick = jnp.clip(jax.random.beta(key_stick, 1.0, alpha, (K - 1,)), 1e-15, 1 - 1e-15)
    return log_weights(stick), alpha


def draws(seed, move):
    def one(key):
        key_prior, key_move = jax.random.split(key)
        log_weight, alpha = prior(key_prior)
        return move(key_move, log_weight, alpha)

    log_weight, alpha = jax.vmap(one)(jax.random.split(jax.random.PRNGKey(seed), N))
    left = np.exp(np.asarray(log_weight))
    return {"alpha": np.asarray(alpha), "first": left[:, 0], "second": left[:, 1], "last": left[:, -1]}


def moved(key, log_weight, _):
    order, alpha = reorder(key, log_weight, PRIOR)
    return log_weight[order], alpha


def offenders(one, other):
    return {name for name in one if ks_2samp(one[name], other[name]).pvalue < ALARM}


def test_reordering_leaves_the_prior():
    assert not offenders(draws(0, lambda key, log_weight, alpha: (log_weight, alpha)), draws(1, moved))


def test_an_order_by_size_is_caught():
    by_size = lambda key, log_weight, alpha: (-jnp.sort(-log_weight), alpha)  # noqa: E731
    assert offenders(draws(0, lambda key, log_weight, alpha: (log_weight, alpha)), draws(1, by_size))


def test_sticks_invert_weights():
    stick = jnp.array([0.1, 0.999, 0.5, 1e-6])
    np.testing.assert_allclose(sticks(log_weights(stick)), stick, rtol=1e-9)
