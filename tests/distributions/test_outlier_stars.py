"""`OutlierStars`: what it adds up, what it draws, and whom it suspects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from hbcal.distributions.outlier_stars import NEVER, OutlierStars, Stratum
from hbcal.numerics.outliers import INFLATION, outlier_log_joint


def stratum(seed, n_star, n_seen):
    """Two surveys to calibrate and an anchor, which stands last where it is seen."""
    rng = np.random.default_rng(seed)
    survey = np.stack([np.sort(rng.choice(3, n_seen, replace=n_seen > 3)) for _ in range(n_star)])
    free = survey.ravel() < 2
    return Stratum(
        phi=np.column_stack([np.ones(free.sum()), rng.normal(size=free.sum())]), who=np.eye(2)[survey.ravel()[free]],
        place=np.flatnonzero(free), spread=rng.normal(size=(4, 3)), err2=rng.uniform(0.05, 0.4, survey.shape) ** 2,
        psi=rng.normal(size=(n_star, n_seen, 1)) * (survey < 2)[..., None], scale_at=np.where(survey < 2, survey, -1),
        floor_at=np.where(survey < 2, survey, -1), rate_at=np.where(survey < 2, survey, -1),
        given=np.full(survey.shape, NEVER),
    )  # fmt: skip


SCALE, FLOOR, GAMMA = jnp.array([1.3, 0.8]), jnp.array([0.2, 0.5]), jnp.array([[0.4], [-0.3]])
RATE, COEF = jnp.array([0.05, 0.2]), jnp.array([0.3, -0.2, 0.5])


@pytest.fixture
def strata():
    return stratum(0, 6, 2), stratum(1, 4, 3)


def stars_of(strata, rate=RATE):
    return OutlierStars(
        tuple(s.mean(COEF) for s in strata), tuple(s.variance(SCALE, FLOOR, GAMMA) for s in strata),
        tuple(s.log_odds(rate) for s in strata),
    )  # fmt: skip


def test_tables_by_hand(strata):
    for s in strata:
        b = (s.spread @ np.asarray(COEF)).reshape(2, 2)
        row = dict(zip(s.place.tolist(), s.phi, strict=True))
        for k, (i, j) in enumerate(np.ndindex(*s.err2.shape)):
            survey = s.floor_at[i, j]
            mean = row[k] @ b[survey] if survey >= 0 else 0.0
            tau = float(FLOOR[survey] * np.exp(GAMMA[survey, 0] * s.psi[i, j, 0])) if survey >= 0 else 0.0
            a = float(SCALE[survey]) if survey >= 0 else 1.0
            assert float(s.mean(COEF)[i, j]) == pytest.approx(mean)
            assert float(s.variance(SCALE, FLOOR, GAMMA)[i, j]) == pytest.approx(a**2 * s.err2[i, j] + tau**2)
            odds = float(jnp.log(RATE[survey] / (1 - RATE[survey]))) if survey >= 0 else NEVER
            assert float(s.log_odds(RATE)[i, j]) == pytest.approx(odds)


def test_log_prob_adds_the_stars_up(strata):
    stars = stars_of(strata)
    y = jnp.asarray(np.random.default_rng(3).normal(size=stars.event_shape))
    total, at = 0.0, 0
    for mean, var, odds in zip(stars.means, stars.variances, stars.log_odds, strict=True):
        r = y[at : at + mean.size].reshape(mean.shape) - mean
        at += mean.size
        total += logsumexp(np.asarray(outlier_log_joint(r, var, odds)), axis=1).sum()
    assert float(stars.log_prob(y)) == pytest.approx(float(total))


def test_gradients_are_finite_where_nothing_can_be_an_outlier(strata):
    y = jnp.ones(stars_of(strata).event_shape)
    grad = jax.grad(lambda rate: stars_of(strata, rate).log_prob(y))(RATE)
    assert np.isfinite(grad).all()


def test_samples_have_the_mixture_s_variance_and_share_of_outliers(strata):
    stars = stars_of(strata[:1])
    with jax.numpy_rank_promotion("allow"):  # many samples at once, as NumPyro draws them
        draws = np.asarray(stars.sample(jax.random.PRNGKey(0), (40000,))).reshape(-1, 6, 2)
    odds = np.exp(np.asarray(stars.log_odds[0]))
    share = odds / (1.0 + odds.sum(1, keepdims=True))  # none, or one of two
    expected = np.asarray(stars.variances[0]) * (1.0 + (INFLATION - 1.0) * share)
    z = draws - np.asarray(stars.means[0])
    error = np.sqrt(((z**2) ** 2).mean(0) - (z**2).mean(0) ** 2) / np.sqrt(len(z))
    assert (np.abs((z**2).mean(0) - expected) < 4.5 * error).all()


def test_responsibility_finds_the_planted_blunder(strata):
    stars = stars_of(strata)
    y = np.array(stars.sample(jax.random.PRNGKey(5)))
    first = int(np.argmax(strata[1].rate_at.ravel() >= 0)) + stars.means[0].size
    y[first] += 60.0
    found = np.asarray(stars.responsibility(jnp.asarray(y)))
    assert found[first] > 0.99
    never = np.concatenate([s.rate_at.ravel() < 0 for s in strata])
    assert found[never].max() < 1e-12
