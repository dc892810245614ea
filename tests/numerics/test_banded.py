"""Noise whose neighbouring pixels go together, against dense covariances."""

import numpy as np
import pytest

from hbcal.numerics.banded import WHITE, bands, possible, smooth_err
from hbcal.numerics.linear_maps import (
    broadening_map,
    carry,
    carry_covariance,
    carry_noise,
    conserving_map,
    covariance_of,
    linear_map,
    n_neighbours,
)

WAVE = np.arange(80.0)
MAPS = {
    "half a pixel": conserving_map(WAVE, WAVE[2:-3] + 0.5),
    "a third of a pixel": linear_map(WAVE, WAVE[2:-3] + 1 / 3),
    "finer pixels": conserving_map(WAVE, np.arange(3.0, 70.0, 0.7)),
    "broader": conserving_map(WAVE, np.arange(4.0, 76.0, 2.0)) @ broadening_map(WAVE, np.full(80, 4.0)),
}


def dense(a, err):
    """The covariance behind a map, and the correlations in it."""
    cov = np.asarray(carry_covariance(a, np.diag(err**2), np.isfinite(err)))
    sd = np.sqrt(np.diag(cov))
    return cov, cov / np.outer(sd, sd)


@pytest.mark.parametrize("name", MAPS)
def test_noise_behind_a_map_is_dense(name):
    a, err = MAPS[name], np.random.default_rng(0).uniform(0.1, 0.2, (2, 80))
    err[1, [20, 40, 41]] = np.nan
    n_band = n_neighbours(a)
    sd, corr = carry_noise(a, err, np.zeros((2, 80, 0)), n_band)
    np.testing.assert_allclose(sd, carry(a, np.zeros_like(err), err)[1], rtol=1e-12)
    for i in range(2):
        cov, whole = dense(a, err[i])
        there = np.isfinite(sd[i])
        built = covariance_of(np.ones(len(cov)), corr[i].astype(float)).toarray()
        # what is beyond the band is next to nothing
        np.testing.assert_allclose(built[np.ix_(there, there)], whole[np.ix_(there, there)], atol=2e-4)
        assert possible(corr[i], there)


@pytest.mark.parametrize("name", MAPS)
def test_one_map_after_another_is_their_product(name):
    """Correlations that are there already are carried."""
    first, second = MAPS["half a pixel"], MAPS[name][:, :75]
    err = np.random.default_rng(1).uniform(0.1, 0.2, (2, 80))
    sd, corr = carry_noise(first, err, np.zeros((2, 80, 0)), n_neighbours(first))
    n_band = n_neighbours(second, corr.shape[2])
    found = carry_noise(second, sd, corr, n_band)
    both = second @ first
    whole = np.asarray(second.sum(axis=1)).ravel() > 1 - 1e-9  # else divided by what was seen, twice or once
    expected = carry_noise(both, err, np.zeros((2, 80, 0)), n_band)
    np.testing.assert_allclose(found[0][:, whole], expected[0][:, whole], rtol=1e-6)
    inner = whole & np.append(whole[n_band:], np.zeros(n_band, bool))
    np.testing.assert_allclose(found[1][:, inner], expected[1][:, inner], atol=2e-3)


def test_correlations_of_no_noise():
    assert not possible(np.full((5, 1), 0.8), np.ones(5, bool))
    assert possible(np.full((5, 1), 0.8), np.array([True, True, False, True, True]))  # pairs, not a chain
    assert not possible(np.full((5, 1), np.inf), np.ones(5, bool))


@pytest.mark.parametrize("name", ["half a pixel", "a third of a pixel", "broader"])
def test_smooth_features_are_told_as_well_as_by_the_covariance(name):
    """The error of a broad line's depth, by the dense covariance and by independent pixels."""
    a = MAPS[name]
    sd, corr = carry_noise(a, np.full((1, 80), 0.1), np.zeros((1, 80, 0)), n_neighbours(a))
    inner, at = slice(8, -8), np.arange(a.shape[0])
    line = np.exp(-0.5 * ((at - at.mean()) / (0.12 * len(at))) ** 2)[inner]
    cov = covariance_of(sd[0], corr[0].astype(float)).toarray()[inner, inner]
    known = line @ np.linalg.solve(cov + 1e-6 * np.eye(len(cov)), line)
    err = smooth_err(corr, sd)[0, inner]
    np.testing.assert_allclose((line**2 / err**2).sum(), known, rtol=0.1)
    assert (line**2 / sd[0, inner] ** 2).sum() > 1.3 * known  # the planted defect: as if pixels were independent


def test_bands_are_as_lapack_wants_them():
    corr = np.array([[0.5, 0.1], [0.4, 0.2], [0.3, 9.0], [9.0, 9.0]])  # nothing beyond the last pixel is looked at
    found = bands(corr, np.array([1.0, 2.0, 3.0, 4.0])) / (1.0 - WHITE)
    np.testing.assert_allclose(found, [[1.0, 2.4, 3.6, 0.0], [0.3, 1.6, 0.0, 0.0]])
