"""Weights of pixels against least squares written out, and the prior that pixels have in common."""

import numpy as np
import pytest

from hbcal.numerics.pixel_layer import RIDGE, _block, pack, pack_twice, pixel_layer, unpack
from hbcal.numerics.shrink import shrink


@pytest.fixture(name="planted")
def _planted():
    rng = np.random.default_rng(2)
    phi = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    weights = rng.normal(size=(40, 3)) * [1.0, 0.1, 0.02]
    err = rng.uniform(0.02, 0.1, (300, 40))
    flux = phi @ weights.T + rng.normal(size=err.shape) * np.hypot(err, 0.03)
    return phi, weights, flux, err


def block(phi, flux, err):
    second = phi[:, :, None] * phi[:, None, :]
    return _block(phi, pack(second), pack_twice(second), None, flux, err, RIDGE, np.full(flux.shape[1], np.nan))


def test_packing_is_undone():
    a = np.random.default_rng(0).normal(size=(3, 4, 4))
    a += np.swapaxes(a, 1, 2)
    np.testing.assert_array_equal(unpack(pack(a), 4), a)


def test_each_pixel_is_weighted_least_squares(planted):
    phi, _, flux, err = planted
    w, scatter, cov, _ = block(phi, flux, err)
    for p in (0, 17, 39):
        weight = 1.0 / (err[:, p] ** 2 + scatter[p])
        dense = np.linalg.inv((phi * weight[:, None]).T @ phi + RIDGE * weight.mean() * np.eye(3))
        np.testing.assert_allclose(cov[p], dense, rtol=1e-4)
        np.testing.assert_allclose(
            w[p], dense @ (phi * weight[:, None]).T @ flux[:, p], rtol=1e-4
        )  # but for the last step of the scatter


def test_scatter_is_the_maximum_of_the_restricted_likelihood(planted):
    phi, _, flux, err = planted
    _, scatter, _, _ = block(phi, flux, err)

    def restricted(s2, p):
        v = err[:, p] ** 2 + s2
        gram = (phi / v[:, None]).T @ phi
        left = flux[:, p] - phi @ np.linalg.solve(gram, phi.T @ (flux[:, p] / v))
        return -0.5 * (np.log(v).sum() + np.linalg.slogdet(gram)[1] + (left**2 / v).sum())

    for p in (3, 30):
        best = restricted(scatter[p], p)
        assert best >= max(restricted(scatter[p] * f, p) for f in (0.97, 1.03)) - 1e-9
    np.testing.assert_allclose(np.sqrt(np.median(scatter)), 0.03, rtol=0.05)


def test_a_missing_pixel_is_a_star_less(planted):
    phi, _, flux, err = planted
    flux, err = flux.copy(), err.copy()
    flux[50:, 7] = np.nan
    err[10:20, 7] = np.nan
    there = np.r_[0:10, 20:50]
    some, alone = block(phi, flux, err), block(phi[there], flux[there, 7:8], err[there, 7:8])
    np.testing.assert_allclose(some[0][7], alone[0][0], rtol=1e-3)
    assert np.isfinite(some[0]).all()


def test_a_pixel_that_few_stars_have_is_not_used(planted):
    phi, _, flux, err = planted
    flux = flux.copy()
    flux[4:, 7] = np.nan
    layer = pixel_layer(phi, None, flux, err)
    assert np.isinf(layer.scatter[7])
    assert np.isfinite(layer.weights).all()
    assert np.isfinite(layer.scale).all()


def test_shrunken_weights_add_up_to_the_right_information():
    """And the planted defect: unbiased estimates add up to too much."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(3000, 4)) * np.where(rng.random((3000, 1)) < 0.3, 1.0, 0.1)
    cov = np.broadcast_to(0.5 * np.eye(4), (3000, 4, 4)).copy()
    seen = truth + np.sqrt(0.5) * rng.normal(size=truth.shape)
    mean, spread = shrink(seen, cov)
    right = np.trace(truth.T @ truth)
    assert abs(np.trace(mean.T @ mean + spread.sum(axis=0)) / right - 1) < 0.1
    assert np.trace(seen.T @ seen) / right > 2
    # calibrated: regressing truth on the posterior mean gives one
    assert abs((truth * mean).sum() / (mean**2).sum() - 1) < 0.05
