"""Fit an emulator of independent pixels to stars whose labels have errors, or are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.emulator.base import Known
from hbcal.emulator.pixels import PixelEmulator
from hbcal.numerics.packed_spectrum import PackedSpectrum, moments, pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer, pixel_layer
from hbcal.numerics.true_labels import EXACT

ROUNDS, SETTLED = 8, 0.1  # until labels move by less than this share of their sd
GAUSS_NEWTON = 12


def train_pixels(
    known: Known, mean: np.ndarray, cov: np.ndarray, reported: np.ndarray, err: np.ndarray, flux: np.ndarray,
    flux_err: np.ndarray, features: Any, *, progress: Callable[[str], None] = lambda text: None,
) -> tuple[PixelEmulator, np.ndarray, np.ndarray]:  # fmt: skip
    """Fit weights to labels, labels to spectra, and again.

    Weights fitted to noisy labels are biased: slopes too flat, curvature too small. So the true labels of the training
    stars are unknowns: given the weights, star i's labels are near N(x_i, C_i), from its spectrum, what was reported of
    it, and a Gaussian population; given those, the weights follow from E[phi] and E[phi phi'] (expectation
    maximisation). A spectrum may tell the labels far better than what was reported does, and then the scale of the labels
    hardly moves from round to round; so each round also asks for the shift and stretch of each label that brings the
    spectra's labels onto the reported ones (parameter-expanded EM).

    Args:
        known: of the training stars.
        mean, cov: a first idea of the true labels, scaled, (n_star, n_label), (n_star, n_label, n_label).
        reported, err: labels and errors, scaled, NaN where missing; an error that is missing counts as none.
        flux, flux_err: (n_star, n_pix), NaN where missing.
        features: of the emulator, `hbcal.emulator.pixels`.
        progress: called with lines of text.

    Returns:
        The emulator, and the true labels: means and covariances.

    Errors:
        None.

    Example:
        >>> from hbcal.emulator.pixels import Quadratic
        >>> spectra, known = tiny_spectra(), tiny_emulator().known
        >>> x = (spectra.labels - known.centre) / known.unit
        >>> none = np.zeros((400, 2, 2))
        >>> emulator, _, _ = train_pixels(
        ...     known, x, none, x, np.zeros_like(x), spectra.flux, spectra.flux_err, Quadratic())
        >>> emulator.layer.weights.shape
        (6, 6)

    Source: Dempster, Laird and Rubin 1977, JRSS B 39, 1; Liu, Rubin and Wu 1998, Biometrika 85, 755.
    """
    there = np.isfinite(reported)
    noise = np.where(np.isfinite(err) & (err > EXACT), err, EXACT)
    told = np.where(there, noise**-2.0, 0.0)
    value = np.where(there, reported, 0.0)
    exact = bool(there.all() and (noise <= EXACT).all())
    layer = None
    for number in range(1 if exact else ROUNDS):
        phi, spread = _moments_of(features, jnp.asarray(mean), jnp.asarray(cov))
        layer = pixel_layer(np.asarray(phi), None if exact else np.asarray(spread), flux, flux_err, start=layer)
        if exact:
            break
        before = mean
        mean, cov, moved = _labels_given(features, layer, flux, flux_err, mean, value, told)
        off = float(np.sqrt((((mean - before) ** 2) / np.einsum("ill->il", cov)).mean()))
        progress(f"training: round {number + 1}, labels moved by {off:.3f} sd, their scale by {moved:.4f}")
        if off < SETTLED:
            break
    assert layer is not None
    affine = np.column_stack([np.ones(len(mean)), mean])
    gram = np.einsum("il,ia,ib->lab", told, affine, affine) + 1e-6 * np.eye(affine.shape[1])
    return PixelEmulator(known, layer, features, np.linalg.inv(gram)), mean, cov


@jax.jit
def _moments_of(features: Any, mean: Array, cov: Array) -> tuple[Array, Array]:
    """E[phi] and the covariance of phi, of labels N(mean, cov): to second order in the labels' sd."""

    def one(x: Array, c: Array) -> tuple[Array, Array]:
        slope, bend = jax.jacfwd(features.of)(x), jax.hessian(features.of)(x)
        return features.of(x) + 0.5 * jnp.einsum("flm,lm->f", bend, c), slope @ c @ slope.T

    return jax.vmap(one)(mean, cov)


def _labels_given(
    features: Any, layer: PixelLayer, flux: np.ndarray, err: np.ndarray, start: np.ndarray, value: np.ndarray,
    told: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """The true labels given weights, spectra and what was reported; and how far the scale of the labels moved."""
    centre, wide = start.mean(axis=0), np.linalg.inv(np.cov(start.T).reshape(start.shape[1], -1))
    packed = pack_spectra(layer, flux, err, n_node=1)
    at, info = map(np.asarray, _from_spectrum(features, packed, jnp.asarray(start), jnp.asarray(centre), jnp.asarray(wide)))
    var = np.einsum("ill->il", np.linalg.inv(info + wide))
    affine = np.column_stack([np.ones(len(at)), at])
    shift = np.zeros_like(at)
    for l in range(at.shape[1]):
        weight = np.where(told[:, l] > 0, 1.0 / (1.0 / np.maximum(told[:, l], 1e-300) + var[:, l]), 0.0)
        gram = (affine * weight[:, None]).T @ affine
        shift[:, l] = affine @ np.linalg.solve(gram, affine.T @ (weight * (value[:, l] - at[:, l])))
    alone = np.linalg.solve(info + 1e-9 * wide, ((info + wide) @ at[..., None]) - (wide @ centre)[None, :, None])[..., 0]
    pull = np.einsum("ilm,im->il", info, alone + shift) + told * value + (wide @ centre)[None, :]
    precision = info + wide + told[:, :, None] * np.eye(at.shape[1])
    mean = np.linalg.solve(precision, pull[..., None])[..., 0]
    return mean, np.linalg.inv(precision), float(np.sqrt((shift**2).mean()))


@jax.jit
def _from_spectrum(
    features: Any, packed: PackedSpectrum, start: Array, centre: Array, wide: Array
) -> tuple[Array, Array]:
    """Labels of each star from its spectrum and a Gaussian population, and what the spectrum alone says of them."""

    def one(packed: PackedSpectrum, x: Array) -> tuple[Array, Array]:
        found = moments(packed, jnp.zeros(()), layer_size)

        def cost(x: Array) -> Array:
            phi, off = features.of(x), x - centre
            return found.square - 2.0 * found.cross @ phi + phi @ found.gram @ phi + off @ wide @ off

        def step(state: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], None]:
            x, here, damp = state
            phi, slope = features.of(x), jax.jacfwd(features.of)(x)
            curve = slope.T @ found.gram @ slope + wide
            pull = slope.T @ (found.cross - found.gram @ phi) - wide @ (x - centre)
            there = x + jnp.linalg.solve(curve + damp * jnp.diag(jnp.diagonal(curve)), pull)
            new = cost(there)
            better = new <= here
            kept = (jnp.where(better, there, x), jnp.where(better, new, here))
            return (*kept, jnp.where(better, 0.1 * damp, 10.0 * damp)), None

        (x, _, _), _ = jax.lax.scan(step, (x, cost(x), jnp.asarray(1e-3)), None, length=GAUSS_NEWTON)
        slope = jax.jacfwd(features.of)(x)
        return x, slope.T @ found.gram @ slope

    layer_size = jax.eval_shape(features.of, start[0]).shape[0]
    return jax.vmap(one)(packed, start)
