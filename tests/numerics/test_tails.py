"""Labels that go wild: intervals fitted on some stars hold others, and Gaussian draws as they are do not."""

import numpy as np
import pytest
from scipy.stats import chi2

from hbcal.numerics.intervals import interval_level, weighted_quantiles
from hbcal.numerics.spread import fit_kept, loosened, moved_to
from hbcal.numerics.tails import LEAST, fit_tail, heavier

N, N_DRAW = 4000, 64
SHARE = np.full((N, N_DRAW), 1.0 / N_DRAW)
ROOT = np.array([[1.0, 0.0], [0.8, 0.6]])


def world(seed, dof):
    """Gaussian draws, and truths as far from their mean as a multivariate Student t has them."""
    rng = np.random.default_rng(seed)
    off = rng.normal(size=(N, N_DRAW, 2)) @ ROOT.T
    off -= off.mean(axis=1, keepdims=True)
    apart = rng.normal(size=(N, 2)) @ ROOT.T / np.sqrt(rng.chisquare(dof, size=(N, 1)) / dof)
    return off, np.tile(ROOT @ ROOT.T, (N, 1, 1)), apart


def held(off, apart, level):
    return (interval_level(apart[:, None] - off, SHARE, np.zeros_like(apart)) < level).mean(axis=0)


@pytest.mark.parametrize("dof", [4.0, 8.0])
def test_fitted_tails_hold_stars_they_were_not_fitted_to(dof):
    off, cov, apart = world(1, dof)
    found = fit_tail(off, cov, SHARE, apart, np.zeros_like(apart))
    off, cov, apart = world(2, dof)
    wide = heavier(off, cov, found[0]) * np.exp(found[1:])
    np.testing.assert_allclose(held(wide, apart, 0.683), 0.683, atol=0.02)
    np.testing.assert_allclose(held(wide, apart, 0.95), 0.95, atol=0.01)


def test_gaussian_draws_cannot_hold_both_whatever_their_width():
    off, _, apart = world(3, 4.0)
    for factor in np.linspace(0.8, 1.5, 36):
        missed = np.abs([held(factor * off, apart, p) - p for p in (0.683, 0.95)])
        assert (missed > [[0.02], [0.01]]).any()


def test_gaussians_are_left_as_they_are():
    off, cov, apart = world(4, 1e9)
    found = fit_tail(off, cov, SHARE, apart, np.zeros_like(apart))
    assert found[0] <= 1 / 24
    np.testing.assert_allclose(found[1:], 0.0, atol=0.05)


def test_few_stars_tell_nothing():
    off, cov, apart = (each[: LEAST - 1] for each in world(5, 3.0))
    assert not fit_tail(off, cov, SHARE[: LEAST - 1], apart, np.zeros_like(apart)).any()


def test_weights_count_in_quantiles():
    rng = np.random.default_rng(6)
    draws, levels = rng.normal(size=(3, 500, 2)), np.array([0.025, 0.5, 0.975])
    twice = np.concatenate([draws, draws + 50.0], axis=1)
    share = np.tile(np.repeat([1.0 / 500, 0.0], 500), (3, 1))
    np.testing.assert_allclose(
        weighted_quantiles(twice, share, levels), weighted_quantiles(draws, np.full((3, 500), 1 / 500), levels)
    )
    np.testing.assert_allclose(
        np.moveaxis(weighted_quantiles(draws, np.full((3, 500), 1 / 500), levels), 2, 0),
        np.quantile(draws, levels, axis=1, method="hazen"), atol=1e-12,
    )  # fmt: skip


def test_draws_without_any_spread_stay_where_they_are():
    assert not heavier(np.zeros((2, 5, 2)), np.zeros((2, 2, 2)), 0.2).any()


@pytest.mark.parametrize(("root", "kept"), [(ROOT, 1.0), (np.eye(2), 0.0)])
def test_correlations_that_errors_do_not_bear_out_are_dropped(root, kept):
    rng = np.random.default_rng(8)
    off, cov, _ = world(8, 5.0)
    apart = rng.normal(size=(N, 2)) @ root.T
    found = fit_kept(apart, cov, np.zeros_like(apart))
    assert found == pytest.approx(kept, abs=0.1)
    new = loosened(cov, found)
    np.testing.assert_allclose(np.cov(moved_to(off, cov, new).reshape(-1, 2).T), new[0], atol=0.03)
    for total, holds in ((new, True), (cov, kept == 1.0)):
        far = (apart * np.linalg.solve(total, apart[..., None])[..., 0]).sum(axis=1)
        assert (abs((far < chi2.ppf(0.95, 2)).mean() - 0.95) < 0.015) == holds
