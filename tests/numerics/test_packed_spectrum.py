"""Sums over pixels against pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hbcal.numerics.packed_spectrum import moments, off_by, pack_spectra, without
from hbcal.numerics.pixel_layer import PixelLayer


@pytest.fixture(name="case")
def _case():
    rng = np.random.default_rng(4)
    n_pix, n_feature = 60, 3
    b = 10.0 ** rng.uniform(1.5, 2.5, n_pix)  # b v spans a factor of ten and more
    layer = PixelLayer(rng.normal(size=(n_pix, n_feature)), rng.uniform(0, 0.01, n_pix), np.eye(n_feature), b)
    flux, err = rng.normal(size=(2, n_pix)), rng.uniform(0.05, 0.1, (2, n_pix))
    flux[1, :20] = np.nan
    err[1, 25] = np.nan
    return layer, flux, err


@pytest.mark.parametrize("leverage", [0.0, 0.01, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("star", [0, 1])
def test_packed_is_dense(case, leverage, star):
    layer, flux, err = case
    one = jax.tree.map(lambda leaf: leaf[star], pack_spectra(layer, flux, err))
    seen = np.isfinite(flux[star] + err[star])
    v = err[star, seen] ** 2 + layer.scatter[seen] + leverage / layer.scale[seen]
    phi, slope = np.array([1.0, -0.4, 0.2]), np.array([[0.0, 0.0], [1.0, 0.3], [0.1, 1.0]])
    root = np.array([[0.3, 0.0], [0.1, 0.2]])
    chi2, log_det = off_by(moments(one, jnp.asarray(leverage), 3), jnp.asarray(phi), jnp.asarray(slope @ root))
    w = layer.weights[seen]
    cov = np.diag(v) + (w @ slope @ root) @ (w @ slope @ root).T
    dense = multivariate_normal(w @ phi, cov).logpdf(flux[star, seen])
    packed = -0.5 * (chi2 + log_det + seen.sum() * np.log(2 * np.pi))
    np.testing.assert_allclose(packed, dense, rtol=1e-3 if leverage else 1e-9)


def test_what_is_without_the_shared_error_is_dense(case):
    """Sums over pixels of the inverse of V + A A'."""
    layer, flux, err = case
    one = jax.tree.map(lambda leaf: leaf[0], pack_spectra(layer, flux, err))
    seen, reach = np.isfinite(flux[0] + err[0]), np.array([[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]])
    w, y = layer.weights[seen], flux[0, seen]
    inverse = np.linalg.inv(np.diag(err[0, seen] ** 2 + layer.scatter[seen]) + w @ reach @ (w @ reach).T)
    found = without(moments(one, jnp.zeros(()), 3), jnp.asarray(reach))
    np.testing.assert_allclose(found.gram, w.T @ inverse @ w, rtol=1e-8)
    np.testing.assert_allclose(found.cross, w.T @ inverse @ y, rtol=1e-8)
    np.testing.assert_allclose(found.square, y @ inverse @ y, rtol=1e-8)


def test_a_star_without_pixels_says_nothing(case):
    layer, flux, err = case
    one = jax.tree.map(lambda leaf: leaf[0], pack_spectra(layer, np.full_like(flux, np.nan), err))
    told = off_by(moments(one, jnp.asarray(0.1), 3), jnp.ones(3), 0.1 * jnp.ones((3, 2)))
    np.testing.assert_array_equal(np.array(told), 0.0)
