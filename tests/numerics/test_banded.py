"""Noise whose neighbouring pixels go together, against dense covariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hbcal.numerics.banded import WHITE, bands, possible
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
from hbcal.numerics.packed_spectrum import moments, off_by, pack_own, pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer

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


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("leverage", [0.0, 0.01, 0.3, 3.0, 100.0])
def test_packed_banded_noise_is_dense(name, leverage):
    rng, a = np.random.default_rng(2), MAPS[name]
    n_pix, err = a.shape[0], rng.uniform(0.05, 0.1, (2, 80))
    flux, _ = carry(a, rng.normal(size=(2, 80)), err)
    flux[1, :10] = np.nan
    flux[1, 15] = np.nan
    sd, corr = carry_noise(a, err, np.zeros((2, 80, 0)), n_neighbours(a))
    b = 10.0 ** rng.uniform(1.5, 2.5, n_pix)
    layer = PixelLayer(rng.normal(size=(n_pix, 3)), rng.uniform(0.0, 0.01, n_pix) * sd[0], np.eye(3), b)
    packed = pack_spectra(layer, flux, sd, corr=corr)
    phi, reach = np.array([0.1, -0.04, 0.02]), np.array([[0.0, 0.0], [0.3, 0.1], [0.1, 0.2]])
    for i in range(2):
        seen = np.isfinite(flux[i])
        cov = covariance_of(np.where(seen, sd[i], 0.0), corr[i].astype(float)).toarray()[np.ix_(seen, seen)]
        cov = np.where(np.eye(len(cov)) > 0, cov, (1.0 - WHITE) * cov)
        w = layer.weights[seen]
        total = cov + np.diag(layer.scatter[seen] + leverage / b[seen]) + (w @ reach) @ (w @ reach).T
        expected = multivariate_normal(w @ phi, total).logpdf(flux[i, seen])
        one = jax.tree.map(lambda leaf, i=i: leaf[i], packed)
        chi2, log_det = off_by(moments(one, jnp.asarray(leverage), 3), jnp.asarray(phi), jnp.asarray(reach))
        found = -0.5 * (chi2 + log_det + seen.sum() * np.log(2 * np.pi))
        np.testing.assert_allclose(found, expected, atol=0.02 if leverage else 1e-6, rtol=0.0)


def test_own_weights_and_no_correlation_change_nothing():
    rng = np.random.default_rng(3)
    layer = PixelLayer(rng.normal(size=(30, 2)), np.full(30, 0.01), np.eye(2), np.full(30, 50.0))
    flux, err = rng.normal(size=(1, 30)), np.full((1, 30), 0.1)
    corr = np.zeros((1, 30, 2))
    plain, banded = pack_spectra(layer, flux, err), pack_spectra(layer, flux, err, corr=corr)
    own = pack_own(layer, layer.weights, flux[0], err[0], corr=corr[0])
    for leverage in (0.0, 0.5):
        told = [moments(jax.tree.map(lambda leaf: leaf[0], one), jnp.asarray(leverage), 2) for one in (plain, banded)]
        for name in ("gram", "cross", "square", "log_det"):
            np.testing.assert_allclose(getattr(told[1], name), getattr(told[0], name), rtol=1e-4)
    for ours, theirs in zip(own, (banded.series, banded.turn, banded.n_seen), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_bands_are_as_lapack_wants_them():
    corr = np.array([[0.5, 0.1], [0.4, 0.2], [0.3, 9.0], [9.0, 9.0]])  # nothing beyond the last pixel is looked at
    found = bands(corr, np.array([1.0, 2.0, 3.0, 4.0])) / (1.0 - WHITE)
    np.testing.assert_allclose(found, [[1.0, 2.4, 3.6, 0.0], [0.3, 1.6, 0.0, 0.0]])
