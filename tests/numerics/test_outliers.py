"""Outliers summed over, against dense normal densities of a star's differences, hypothesis by hypothesis."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from scipy.special import logsumexp

from hbcal.numerics.outliers import INFLATION, hypotheses, outlier_log_joint, true_value


def star(seed, n):
    rng = np.random.default_rng(seed)
    return rng.normal(5.0, 2.0, n), rng.uniform(0.1, 2.0, n), rng.normal(-3.0, 1.0, n)


def dense(r, var, odds):
    """log sum_h q(h) p(differences | h): Helmert contrasts; a flat z has density 1 along z, 1/sqrt(n) along u."""
    n = len(r)
    sets = [()] + [(i,) for i in range(n)] + (list(combinations(range(n), 2)) if n > 2 else [])
    h = linalg.helmert(n)
    log_q, log_p = [], []
    for each in sets:
        v = var.copy()
        v[list(each)] *= INFLATION
        log_q.append(sum(odds[i] for i in each))
        log_p.append(stats.multivariate_normal.logpdf(h @ r, cov=h @ np.diag(v) @ h.T) - 0.5 * np.log(n))
    return logsumexp(np.array(log_q) - logsumexp(log_q) + np.array(log_p))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_dense_mixture(seed, n):
    r, var, odds = star(seed, n)
    joint = outlier_log_joint(*(jnp.asarray(x)[None] for x in (r, var, odds)))
    assert float(logsumexp(joint)) == pytest.approx(dense(r, var, odds), abs=1e-10)


def test_a_common_level_costs_no_digits():
    r, var, odds = star(0, 4)
    near, far = (outlier_log_joint(*(jnp.asarray(x)[None] for x in (r + level, var, odds))) for level in (0.0, 1e7))
    np.testing.assert_allclose(far, near, atol=1e-6)


def test_without_odds_nothing_is_an_outlier():
    r, var, _ = star(1, 3)
    joint = outlier_log_joint(jnp.asarray(r)[None], jnp.asarray(var)[None], jnp.full((1, 3), -1e4))
    h = linalg.helmert(3)
    plain = stats.multivariate_normal.logpdf(h @ r, cov=h @ np.diag(var) @ h.T) - 0.5 * np.log(3)
    assert float(logsumexp(joint)) == pytest.approx(plain, abs=1e-10)


def test_permuting_a_star_changes_nothing():
    r, var, odds = star(2, 4)
    order = np.array([2, 0, 3, 1])
    one, other = (outlier_log_joint(*(jnp.asarray(x[p])[None] for x in (r, var, odds))) for p in (np.arange(4), order))
    assert float(logsumexp(one)) == pytest.approx(float(logsumexp(other)), abs=1e-12)


def test_true_value_is_the_weighted_mean_under_each_hypothesis():
    r, var, _ = star(3, 3)
    mean, variance = true_value(jnp.asarray(r)[None], jnp.asarray(var)[None])
    for k, h in enumerate(hypotheses(3)):
        w = 1.0 / (var * np.where(h > 0, INFLATION, 1.0))
        assert float(mean[0, k]) == pytest.approx((w * r).sum() / w.sum())
        assert float(variance[0, k]) == pytest.approx(1.0 / w.sum())


def test_a_planted_blunder_is_named():
    """Nine measurements that agree and one 30 sd away."""
    rng = np.random.default_rng(4)
    r = rng.normal(size=10)
    r[6] += 30.0
    joint = np.asarray(outlier_log_joint(jnp.asarray(r)[None], jnp.ones((1, 10)), jnp.full((1, 10), -3.5)))[0]
    probability = np.exp(joint - logsumexp(joint)) @ hypotheses(10)
    assert probability[6] > 0.999
    assert np.delete(probability, 6).max() < 0.2


@pytest.mark.parametrize("exact", [1e-20, 1e-80, 1e-160])
def test_an_all_but_exact_measurement_costs_no_digits(exact):
    """Then the true value is known, and what is left are the others' own densities; nothing may draw a chain in."""
    r, var, _ = (np.stack(x) for x in zip(*(star(seed, 3) for seed in range(100)), strict=True))
    var[:, 1] = exact
    joint = outlier_log_joint(*map(jnp.asarray, (r, var, np.full(r.shape, -1e4))))
    expected = stats.norm.logpdf(r[:, [0, 2]], r[:, [1]], np.sqrt(var[:, [0, 2]])).sum(1)
    np.testing.assert_allclose(logsumexp(joint, axis=1), expected, rtol=1e-9)
