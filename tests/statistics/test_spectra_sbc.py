"""Simulation-based calibration of labels from spectra of independent pixels, emulator error and all."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbcal.check.sbc import ranks, uniformity, verdict
from hbcal.emulator.base import Known
from hbcal.emulator.full import quadratic
from hbcal.emulator.pixels import PixelEmulator, Quadratic
from hbcal.label import label_spectra
from hbcal.numerics.label_density import LabelDensity
from hbcal.numerics.pixel_layer import PixelLayer
from hbcal.numerics.spread import n_sign
from hbcal.spectra.container import Spectra

N_STAR, N_PIX, N_TRAIN = 300, 120, 40  # few training stars: the emulator's own error is a large part
NOISE, THIN = 0.02, 6


@pytest.fixture(scope="module", name="sky")
def _sky():
    """Labels from the prior, and weights from the emulator's own posterior, anew for each star."""
    rng = np.random.default_rng(8)
    size = np.r_[1.0, 0.04, 0.04, 0.01, 0.01, 0.01]
    layer = PixelLayer(
        rng.normal(size=(N_PIX, 6)) * size,
        np.full(N_PIX, 0.01**2),
        np.eye(6) / N_TRAIN,
        rng.uniform(200.0, 400.0, N_PIX),
    )
    density = LabelDensity(np.zeros(1), np.zeros((1, 2)), np.eye(2)[None])
    known = Known(
        np.zeros(2), np.ones(2), density, np.array([-np.inf]), np.array([np.inf]),
        np.zeros((n_sign(2), 2)), np.zeros(3), np.ones(()),
        rng.normal(size=(200, 2)), np.arange(float(N_PIX)), ("a", "b"),
    )  # fmt: skip
    emulator = PixelEmulator(known, layer, Quadratic(), np.zeros((2, 1, 2, 1)))
    x = rng.normal(size=(N_STAR, 2))
    phi = np.asarray(jax.vmap(quadratic)(jnp.asarray(x)))
    leverage = np.einsum("if,fg,ig->i", phi, layer.spread, phi)
    v = NOISE**2 + layer.scatter + leverage[:, None] / layer.scale
    flux = phi @ layer.weights.T + np.sqrt(v) * rng.normal(size=v.shape)
    seen = Spectra(
        known.wave, flux, np.full_like(flux, NOISE), np.arange(N_STAR).astype(str), x, np.zeros_like(x), ("a", "b")
    )
    return emulator, seen


def offenders(emulator, seen):
    found = label_spectra(emulator, seen, keep_draws=True)
    draws = found["draws"].to_numpy()[:, ::THIN]
    return verdict({
        str(name): uniformity(ranks(seen.labels[:, l], draws[:, :, l]), draws.shape[1])
        for l, name in enumerate(seen.label_names)
    })  # fmt: skip


@pytest.mark.slow
def test_ranks_are_uniform(sky):
    assert not offenders(*sky)


@pytest.mark.slow
def test_an_emulator_that_is_sure_of_itself_is_caught(sky):
    emulator, seen = sky
    assert offenders(replace(emulator, layer=replace(emulator.layer, scale=1e9 * emulator.layer.scale)), seen)


@pytest.mark.slow
def test_a_wrong_line_spread_is_caught(sky):
    """Spectra smoothed more than those of the training: every label is off, or the misfit says so."""
    emulator, seen = sky
    kernel = np.array([0.1, 0.8, 0.1])
    broad = np.apply_along_axis(lambda f: np.convolve(np.pad(f, 1, mode="edge"), kernel, "valid"), 1, seen.flux)
    assert offenders(emulator, replace(seen, flux=broad))
