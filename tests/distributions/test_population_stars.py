"""`PopulationStars`: what a group's tables say by hand, what it draws, and how likely that is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hbcal.distributions.flat_stars import Block
from hbcal.distributions.population_stars import Group

N = 6
COEF = (jnp.array([0.1, -0.3]), jnp.array([0.05]))
CENTRE, ROOT, REFERENCE = jnp.array([2.5, -0.1]), jnp.array([[0.4, 0.0], [-0.1, 0.2]]), jnp.array([2.0, 0.0])


@pytest.fixture
def group():
    """Label 0 from a survey with a slope in label 0 and an anchor; label 1 from a survey with a slope in label 0."""
    rng = np.random.default_rng(0)
    seen = np.ones((N, 2), bool)
    seen[1, 0] = seen[2, 1] = False

    def block(seen, phi, spread, free, name):
        return Block(
            seen, phi, spread, rng.uniform(0.01, 0.05, seen.shape) ** 2, np.zeros((*seen.shape, 0)),
            (0,) * free + (-1,) * (seen.shape[1] - free), (0,) * free + (-1,) * (seen.shape[1] - free), name,
        )  # fmt: skip

    slope_0, slope_1 = np.zeros((N, 1, 2, 2)), np.zeros((N, 1, 1, 2))
    slope_0[:, 0, 1, 0] = 2.0 * seen[:, 0]
    slope_1[:, 0, 0, 0] = 1.5
    phi_0 = np.zeros((N, 1, 2))
    phi_0[:, 0, 0] = seen[:, 0]
    blocks = (
        block(seen, phi_0, np.eye(2), 1, "logg"),
        block(np.ones((N, 1), bool), np.zeros((N, 1, 1)), np.eye(1), 1, ""),
    )
    return Group(blocks, (slope_0, slope_1), (0, 1), "a+anchor")


def stars_of(group):
    var = group.variance(jnp.array([1.2]), jnp.array([0.03]), jnp.zeros((1, 0)))
    return group.stars(COEF, var, CENTRE, ROOT, REFERENCE)


def test_tables_by_hand(group):
    stars = stars_of(group)
    # row 0: y = z_0 + 0.1 - 0.3 * 2 (z_0 - 2), the anchor's z_0, and z_1 + 0.05 * 1.5 (z_0 - 2)
    np.testing.assert_allclose(stars.mean_table[0], [2.5 + 0.1 - 0.6 * 0.5, 2.5, -0.1 + 0.075 * 0.5], rtol=1e-12)
    np.testing.assert_allclose(stars.response[0], [[0.4, 0.0], [1.0, 0.0], [0.075, 1.0]], rtol=1e-12)
    err2 = [b.err2[0, 0] for b in group.blocks]
    np.testing.assert_allclose(stars.var[0, [0, 2]], 1.44 * np.array(err2) + 0.03**2, rtol=1e-12)


def test_log_prob_is_that_of_a_dense_gaussian(group):
    stars = stars_of(group)
    y = np.asarray(stars.sample(jax.random.PRNGKey(1)))
    total = 0.0
    for i, row in enumerate(y.reshape(N, 3)):
        at = np.asarray(stars.seen[i])
        wide = np.asarray(stars.response[i])[at] @ np.asarray(ROOT)
        dense = wide @ wide.T + np.diag(np.asarray(stars.var[i])[at])
        total += stats.multivariate_normal(np.asarray(stars.mean_table[i])[at], dense).logpdf(row[at])
    assert float(stars.log_prob(y)) == pytest.approx(total, rel=1e-10)


def test_samples_have_the_population_s_moments(group):
    stars = stars_of(group)
    with jax.numpy_rank_promotion("allow"):  # many samples at once, as NumPyro draws them
        y = np.asarray(stars.sample(jax.random.PRNGKey(0), (40000,))).reshape(-1, N, 3)[:, 0]
    wide = np.asarray(stars.response[0]) @ np.asarray(ROOT)
    dense = wide @ wide.T + np.diag(np.asarray(stars.var[0]))
    error = np.sqrt(np.diag(dense) / len(y))
    assert (np.abs(y.mean(0) - np.asarray(stars.mean_table[0])) < 4.5 * error).all()
    spread = np.sqrt((np.outer(np.diag(dense), np.diag(dense)) + dense**2) / len(y))
    assert (np.abs(np.cov(y.T) - dense) < 4.5 * spread).all()
