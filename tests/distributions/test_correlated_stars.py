"""`CorrelatedStars`: what it draws has the moments that its log density is of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hbcal.distributions.correlated_stars import CorrelatedStars, Visits

N, SD = 3, jnp.array([0.7, 0.4])


@pytest.fixture
def stars():
    """Two labels, two surveys: one to calibrate in both, and an anchor; a correlation given to the first star."""
    rng = np.random.default_rng(0)
    seen = np.ones((N, 2, 2), bool)
    seen[1, 0, 1] = seen[1, 1, 1] = False
    corr = np.broadcast_to(np.eye(2), (N, 2, 2, 2)).copy()
    corr[0, 0] = [[1.0, -0.6], [-0.6, 1.0]]
    given = np.zeros((N, 2), bool)
    given[0, 0] = True
    spread = np.eye(2)  # one visit, two labels, one term each
    group = Visits(
        seen, np.where(seen[:, :1, :, None], 1.0, 0.0), spread, np.where(seen, rng.uniform(0.1, 0.3, seen.shape), 0.0),
        np.zeros((*seen.shape, 0)), corr, given, ((0, 1), (-1, -1)), ((0, 1), (-1, -1)), (0, -1), "g",
    )  # fmt: skip
    fitted = jnp.array([[1.0, 0.5], [0.5, 1.0]])
    cov = group.covariance(jnp.array([1.2, 0.9]), jnp.array([0.1, 0.2]), jnp.zeros((2, 0)), (fitted,))
    return CorrelatedStars((group,), (cov,), SD)


def dense(stars):
    """Covariance of a value, ravelled: coefficients shared by all stars, noise of each visit; 1 where nothing was."""
    group, cov = stars.groups[0], np.asarray(stars.covariances[0])
    n = group.seen.size
    out = np.zeros((n, n))
    index = np.arange(n).reshape(group.seen.shape)
    for i in range(N):
        for v in range(2):
            at = index[i, v][group.seen[i, v]]
            out[np.ix_(at, at)] += cov[i, v][np.ix_(group.seen[i, v], group.seen[i, v])]
    for l in range(2):
        at = index[:, 0, l][group.seen[:, 0, l]]
        out[np.ix_(at, at)] += float(SD[l]) ** 2
    bare = index[~group.seen]
    out[bare, bare] = 1.0
    return out


def test_log_prob_is_that_of_the_differences(stars):
    y = np.asarray(stars.sample(jax.random.PRNGKey(1)))
    rows, const = [], 0.0
    seen = stars.groups[0].seen
    index = np.arange(seen.size).reshape(seen.shape)
    for i in range(N):
        for l in range(2):
            at = index[i, :, l][seen[i, :, l]]
            if len(at) == 2:
                rows.append(np.zeros(seen.size))
                rows[-1][at] = [np.sqrt(0.5), -np.sqrt(0.5)]
                const -= 0.5 * np.log(2.0)
    contrast = np.array(rows)
    expected = stats.multivariate_normal(np.zeros(len(rows)), contrast @ dense(stars) @ contrast.T)
    assert float(stars.log_prob(y)) == pytest.approx(expected.logpdf(contrast @ y.ravel()) + const, rel=1e-10)


def test_samples_have_these_moments(stars):
    with jax.numpy_rank_promotion("allow"):  # many samples at once, as NumPyro draws them
        y = np.asarray(stars.sample(jax.random.PRNGKey(0), (40000,))).reshape(40000, -1)
    cov = dense(stars)
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / len(y))
    assert (np.abs(np.cov(y.T) - cov) < 4.5 * error).all()
    assert (np.abs(y.mean(0)) < 4.5 * np.sqrt(np.diag(cov) / len(y))).all()


def test_given_the_coefficients_it_is_their_mean_and_noise(stars):
    coef = jnp.array([0.3, -0.2])
    given = stars.given(coef)
    expected = np.where(stars.groups[0].seen[:, 0], [0.3, -0.2], 0.0)
    np.testing.assert_allclose(np.asarray(given.mean).reshape(N, 2, 2)[:, 0], expected)
    assert given.event_shape == stars.event_shape
