"""The emulator of independent pixels: its density, masks, flags, noisy labels, and when it is chosen."""

from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest, multivariate_normal

from hbcal.emulate import emulate
from hbcal.emulator.files import load_emulator, save_emulator
from hbcal.emulator.full import quadratic
from hbcal.emulator.independent import neighbours_correlate
from hbcal.emulator.pixels import PixelEmulator, scale_root
from hbcal.label import label_spectra
from hbcal.training import CoverageWarning, train_emulator


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_its_density_is_that_of_its_pixels(world, trained):
    seen, _ = world.observe(1, 5)
    star = first(trained.read(seen.flux, seen.flux_err)[0])
    layer, x = trained.layer, [np.zeros(3), np.array([0.5, -1.0, 0.3])]

    def dense(x):
        phi = np.asarray(quadratic(jnp.asarray(x)))
        v = seen.flux_err[0] ** 2 + layer.scatter + phi @ layer.spread @ phi / layer.scale
        a = (
            layer.weights
            @ np.asarray(jax.jacfwd(quadratic)(jnp.asarray(x)))
            @ scale_root(trained.scale, jnp.asarray(x))
        )
        return multivariate_normal(layer.weights @ phi, np.diag(v) + a @ a.T).logpdf(seen.flux[0])

    told = [float(trained.log_likelihood(jnp.asarray(each), star)) for each in x]
    np.testing.assert_allclose(told[1] - told[0], dense(x[1]) - dense(x[0]), rtol=1e-6)


def test_its_error_is_that_of_each_pixel_on_the_average(world, trained):
    """The common shape of the weights' covariance: within a factor of two of each pixel's own, and right in sum."""
    from hbcal.numerics.pixel_layer import pixel_layer

    seen, labels = world.observe(600, 1)
    phi = np.asarray(jax.vmap(quadratic)(jnp.asarray((labels - world.centre) / world.scale)))
    layer = pixel_layer(phi, None, seen.flux, seen.flux_err)
    truth = world.strength.T
    off = ((truth - layer.weights) @ phi.T) ** 2  # (n_pix, n_star)
    claimed = np.einsum("if,fg,ig->i", phi, layer.spread, phi)[None] / layer.scale[:, None]
    np.testing.assert_allclose(off.mean() / claimed.mean(), 1.0, atol=0.12)


def test_what_it_expects_of_a_spectrum_is_as_far_off_as_it_says(world, trained):
    seen, labels = world.observe(400, 23)
    told = emulate(trained, dict(zip(seen.label_names, labels.T, strict=True)))
    root, own = told["root"].to_numpy(), told["variance"].to_numpy() + seen.flux_err**2
    cov = root @ np.swapaxes(root, 1, 2) + own[:, :, None] * np.eye(own.shape[1])
    off = seen.flux - told["flux"].to_numpy()
    far = np.einsum("sp,sp->s", off, np.linalg.solve(cov, off[..., None])[..., 0])
    assert kstest(chi2.cdf(far, off.shape[1]), "uniform").pvalue > 1e-3
    assert kstest(chi2.cdf(far * 1.1**2, off.shape[1]), "uniform").pvalue < 1e-6  # planted: a tenth too sure


def test_a_masked_pixel_has_no_influence(world, trained):
    seen, _ = world.observe(3, 6)
    flux, err = seen.flux.copy(), seen.flux_err.copy()
    flux[:, 100:150] = np.nan
    one = trained.read(flux, err)[0]
    err[:, 100:150] = 1e9
    flux[:, 100:150] = 77.0
    other = trained.read(np.where(err > 1, np.nan, flux), err)[0]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    far = trained.read(np.where(err > 1, 0.0, flux), err)[0]  # an error without end says nothing either
    slope = jax.grad(lambda x, star: trained.log_likelihood(x, star))
    np.testing.assert_allclose(slope(jnp.ones(3), first(one)), slope(jnp.ones(3), first(far)), rtol=1e-4)


def test_stars_with_missing_pixels_train(world, tmp_path):
    seen, _ = world.observe(400, 7, label_err=0.05)
    seen.flux[np.random.default_rng(0).random(seen.flux.shape) < 0.1] = np.nan
    seen.flux[5] = np.nan
    said = []
    emulator = train_emulator(seen, tmp_path / "m", method="quadratic", noise="independent", progress=said.append)
    assert "left out: 1, missing pixels" in said
    other, labels = world.observe(50, 8)
    found = label_spectra(emulator, other, fast=True)
    assert (np.abs(found["value"].to_numpy() - labels).mean(axis=0) < 0.05 * world.scale).all()


def test_what_is_saved_comes_back(trained, tmp_path):
    save_emulator(trained, tmp_path / "m", {})
    back = load_emulator(tmp_path / "m")
    assert isinstance(back, PixelEmulator)
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("honest", [True, False])
def test_label_noise_does_not_bias_the_curvature(world, tmp_path, honest):
    """And the planted defect: taking noisy labels for the truth does, and fails the gate of the training."""
    seen, _ = world.observe(900, 11, label_err=0.5)
    if not honest:
        seen = replace(seen, labels_err=np.zeros_like(seen.labels_err))
    with nullcontext() if honest else pytest.warns(CoverageWarning, match="of the emulator in"):
        emulator = train_emulator(seen, tmp_path / "m", method="quadratic", noise="independent")
    # the second derivative of the flux by each label, in the units of the world
    centre = (world.centre - emulator.known.centre) / emulator.known.unit
    bend = np.asarray(jax.hessian(quadratic)(jnp.asarray(centre)))
    unit = world.scale / emulator.known.unit
    found = np.einsum("pf,flm,l,m->plm", emulator.layer.weights, bend, unit, unit)
    truth = np.einsum("pf,flm->plm", world.strength.T, np.asarray(jax.hessian(quadratic)(jnp.zeros(3))))
    kept = (found * truth).sum() / (truth**2).sum()
    assert (abs(kept - 1) < 0.12) == honest, kept
    assert honest or kept < 0.8


def test_what_is_not_a_star_is_flagged(world, trained):
    rng = np.random.default_rng(3)
    good, _ = world.observe(200, 12)
    noise = replace(good, flux=1.0 + 0.3 * rng.normal(size=good.flux.shape))
    flat = replace(good, flux=1.0 + 0.014 * rng.normal(size=good.flux.shape))
    shifted = replace(good, flux=np.roll(good.flux, 4, axis=1))
    usual = label_spectra(trained, good, fast=True)
    assert usual["flag"].to_numpy().mean() < 0.05
    for odd in (noise, flat, shifted):
        found = label_spectra(trained, odd, fast=True)
        worse = found["chi2"].to_numpy()[:, None] > usual["chi2"].to_numpy()[None, :]
        assert worse.mean() >= 0.99
        assert found["flag"].to_numpy().mean() >= 0.99


def test_spectra_of_few_pixels_are_no_misfits(world, trained):
    good, _ = world.observe(400, 12)
    few, err = good.flux.copy(), good.flux_err.copy()
    few[:, 30:] = err[:, 30:] = np.nan
    found = label_spectra(trained, replace(good, flux=few, flux_err=err), fast=True)
    share = (found["misfit_rank"].to_numpy() > 0.995).mean()  # of 60 unseen stars' chi2: an unusual one is hardly told
    assert share < 0.1
    assert (found["chi2"].to_numpy() > trained.known.usual.max()).mean() > 2.0 * share  # chi2 per pixel as it is


def test_neighbours_tell_which_noise(world):
    seen, _ = world.observe(600, 1, label_err=0.3)
    assert abs(neighbours_correlate(seen.flux, seen.flux_err, seen.labels)) < 0.1
    smooth = seen.flux + 0.03 * np.random.default_rng(0).normal(size=(600, 60)).repeat(5, axis=1)
    assert neighbours_correlate(smooth, seen.flux_err, seen.labels) > 0.3
    at = np.linspace(0.0, 1.0, 20)
    root = np.linalg.cholesky(np.exp(-np.abs(np.subtract.outer(at, at)) / 0.2))
    x = np.random.default_rng(9).normal(size=(900, 2))
    few = 0.1 * np.random.default_rng(8).normal(size=(900, 20)) @ root.T  # as smooth as the lines
    flux = 10.0 + few + x @ np.sin(np.outer([5.0, 9.0], at))
    assert neighbours_correlate(flux, np.full(flux.shape, 0.1), x) > 0.3
    assert neighbours_correlate(seen.flux[:30], seen.flux_err[:30], seen.labels[:30]) == 0.0


def test_labels_that_are_missing_are_found(world, tmp_path):
    seen, _ = world.observe(600, 13, label_err=0.1)
    seen.labels[np.random.default_rng(1).random(seen.labels.shape) < 0.2] = np.nan
    emulator = train_emulator(seen, tmp_path / "m", method="quadratic", noise="independent")
    other, labels = world.observe(100, 14)
    found = label_spectra(emulator, other, fast=True)
    assert (np.abs(found["value"].to_numpy() - labels).mean(axis=0) < 0.05 * world.scale).all()
