"""Resampling and broadening against dense oracles, closed forms, and the scatter of many draws."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from hbcal.numerics.linear_maps import (
    FWHM,
    broadening_map,
    carry,
    carry_covariance,
    conserving_map,
    linear_map,
)
from hbcal.numerics.wavelength import width_between

WAVE = np.cumsum(np.random.default_rng(1).uniform(0.8, 1.2, 60)) + 100.0
TO = np.linspace(99.0, 165.0, 37)


def edges(wave):
    mid = (wave[1:] + wave[:-1]) / 2
    low = np.concatenate([[2 * wave[0] - mid[0]], mid])
    return low, np.concatenate([mid, [2 * wave[-1] - mid[-1]]])


def dense_overlap(wave, to):
    """Pixel by pixel, as one would say it."""
    low, high = edges(wave)
    new_low, new_high = edges(to)
    a = np.zeros((len(to), len(wave)))
    for j in range(len(to)):
        for i in range(len(wave)):
            a[j, i] = max(0.0, min(high[i], new_high[j]) - max(low[i], new_low[j])) / (new_high[j] - new_low[j])
    return a


def test_linear_map_is_interpolation():
    flux = np.random.default_rng(0).normal(size=60)
    np.testing.assert_allclose(
        linear_map(WAVE, TO) @ flux, np.interp(TO, WAVE, flux, left=0.0, right=0.0), atol=1e-12
    )  # fmt: skip
    np.testing.assert_array_equal(linear_map(WAVE, WAVE).toarray(), np.eye(60))


@pytest.mark.parametrize("to", [TO, WAVE, np.linspace(105, 150, 9), np.linspace(105, 150, 500)])
def test_conserving_map_is_the_overlap_of_pixels(to):
    np.testing.assert_allclose(conserving_map(WAVE, to).toarray(), dense_overlap(WAVE, to), atol=1e-12)


def test_flux_is_conserved():
    flux = np.random.default_rng(0).uniform(1, 2, 60)
    to = np.linspace(90.0, 180.0, 50)  # all of it and more
    low, high = edges(WAVE)
    new_low, new_high = edges(to)
    new = conserving_map(WAVE, to) @ flux
    np.testing.assert_allclose((new * (new_high - new_low)).sum(), (flux * (high - low)).sum(), rtol=1e-12)


def test_a_gap_between_detectors_stays_empty():
    wave = np.concatenate([np.arange(10.0), 500 + np.arange(10.0)])
    to = np.array([4.5, 9.0, 9.2, 250.0, 499.9, 500.0, 504.5])
    assert (linear_map(wave, to).sum(1) > 0).tolist() == [True, True, False, False, False, True, True]
    covered = conserving_map(wave, np.arange(0.0, 510.0)).sum(1)
    np.testing.assert_allclose(covered[:10], 1.0)
    assert covered[20:490].max() == 0.0


def test_broadening_adds_widths_in_squares():
    wave = np.linspace(5000.0, 5100.0, 2001)
    sigma = 2.0
    line = np.exp(-0.5 * ((wave - 5050.0) / sigma) ** 2)
    fwhm = np.full(2001, 3.0 * FWHM)
    wide = broadening_map(wave, fwhm) @ line
    mean = (wide * wave).sum() / wide.sum()
    np.testing.assert_allclose(mean, 5050.0, atol=1e-6)
    # a pixel is a box of 0.05: its variance, 0.05^2 / 12, is in the integrated Gaussian
    np.testing.assert_allclose((wide * (wave - mean) ** 2).sum() / wide.sum(), 4.0 + 9.0 + 0.05**2 / 12, rtol=1e-4)
    np.testing.assert_allclose(wide.sum(), line.sum(), rtol=1e-6)


def test_constant_power_is_a_constant_width_in_log_wave():
    wave = np.geomspace(4000.0, 5000.0, 4000)
    flux = np.random.default_rng(0).normal(size=4000)
    width = width_between(wave, 20000.0, 3000.0)
    pixels = (width / FWHM / np.gradient(wave))[2000]
    np.testing.assert_allclose(width / FWHM / np.gradient(wave), pixels, rtol=1e-3)
    ours = broadening_map(wave, width) @ flux
    theirs = gaussian_filter1d(flux, np.sqrt(pixels**2 + 1 / 12))  # a Gaussian at points, ours over pixels
    np.testing.assert_allclose(ours[300:-300], theirs[300:-300], atol=1e-3)


def test_no_width_changes_nothing():
    flux = np.random.default_rng(0).normal(size=60)
    np.testing.assert_allclose(broadening_map(WAVE, np.full(60, 1e-4)) @ flux, flux, atol=1e-12)


MAPS = {
    "linear": linear_map(WAVE, TO),
    "conserving": conserving_map(WAVE, TO),
    "broaden, then resample": (conserving_map(WAVE, TO) @ broadening_map(WAVE, np.full(60, 3.0))).tocsr(),
}


@pytest.fixture(params=list(MAPS))
def a(request):
    return MAPS[request.param]


def correlated(n=60):
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    err = np.linspace(0.5, 2.0, n)
    return err[:, None] * err * 0.7**lag


def test_covariance_is_the_dense_one(a):
    cov, seen = correlated(), np.ones(60, bool)
    seen[[5, 6, 30]] = False
    b = a.toarray() * seen
    weight = b.sum(1)
    b = b / np.where(weight >= 0.5, weight, np.nan)[:, None]
    answered = weight >= 0.5
    dense = b @ cov @ b.T
    found = carry_covariance(a, cov, seen)
    np.testing.assert_allclose(found[np.ix_(answered, answered)], dense[np.ix_(answered, answered)], atol=1e-12)
    np.testing.assert_array_equal(np.isnan(np.diag(found)), ~answered)
    diagonal = carry_covariance(a, np.diag(cov), seen).toarray()
    dense = b @ np.diag(np.diag(cov)) @ b.T
    np.testing.assert_allclose(diagonal[np.ix_(answered, answered)], dense[np.ix_(answered, answered)], atol=1e-12)
    flux, err = np.ones((1, 60)), np.sqrt(np.diag(cov))[None]
    flux[:, ~seen] = np.nan
    np.testing.assert_allclose(carry(a, flux, err)[1][0], np.sqrt(np.diag(diagonal)), atol=1e-12)


def scatter(a, cov, n_draw=20000):
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(cov)), cov, n_draw, method="cholesky")
    moved, _ = carry(a, draws, np.ones_like(draws))
    inside = np.isfinite(moved[0])
    return np.cov(moved[:, inside].T), inside, n_draw


def departs(found, said, n_draw):
    """Largest departure of a sample covariance, in its own standard deviations (Wishart)."""
    var = np.diag(said)
    return np.abs((found - said) / np.sqrt((said**2 + np.outer(var, var)) / n_draw)).max()


def test_covariance_is_the_scatter_of_many_draws(a):
    found, inside, n_draw = scatter(a, correlated())
    said = carry_covariance(a, correlated(), np.ones(60, bool))[np.ix_(inside, inside)]
    assert departs(found, said, n_draw) < 5.0  # of some 600 entries, so 3.5 is usual


def test_planted_interpolated_errors_are_caught():
    a = MAPS["linear"]
    found, inside, n_draw = scatter(a, np.diag(np.diag(correlated())))
    naive = np.diag(np.interp(TO, WAVE, np.sqrt(np.diag(correlated())))[inside] ** 2)
    assert departs(found, naive, n_draw) > 20.0
    said = carry_covariance(a, np.diag(correlated()), np.ones(60, bool)).toarray()[np.ix_(inside, inside)]
    assert departs(found, said, n_draw) < 5.0


def test_a_missing_pixel_has_no_influence(a):
    rng = np.random.default_rng(0)
    flux, err, cov = rng.normal(size=(3, 60)), rng.uniform(1, 2, size=(3, 60)), correlated()
    flux[0, 10] = np.nan
    err[1, 20] = np.inf
    seen = np.ones(60, bool)
    seen[10] = False
    first, first_cov = carry(a, flux, err), carry_covariance(a, cov, seen)
    err[0, 10], flux[1, 20] = 1e9, -1e9  # what stands beside the missing one
    cov[10], cov[:, 10] = np.nan, np.nan
    for before, after in zip(first, carry(a, flux, err), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(first_cov, carry_covariance(a, cov, seen))
    lost = np.isnan(first[0][0]) & np.isfinite(first[0][2])
    assert lost.sum() <= 1 + (a.shape[0] > 60)  # only the new pixel that lies on the missing one


def test_a_constant_stays_constant_beside_holes(a):
    flux = np.full((1, 60), 3.0)
    flux[0, [4, 5, 6, 40]] = np.nan
    moved, _ = carry(a, flux, np.ones((1, 60)))
    np.testing.assert_allclose(moved[np.isfinite(moved)], 3.0, rtol=1e-12)
    assert np.isfinite(moved).sum() >= 25
