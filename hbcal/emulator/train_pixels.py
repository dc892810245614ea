"""Fit an emulator of independent pixels to stars whose labels have errors, or are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.emulator.base import Known
from hbcal.emulator.full import quadratic
from hbcal.emulator.pixels import PixelEmulator, from_spectrum
from hbcal.numerics.label_scale import label_scale
from hbcal.numerics.packed_spectrum import pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer, pixel_layer
from hbcal.numerics.true_labels import EXACT

# Until labels move by less than this share of their sd. What still moves late is the scale of all labels, slowly: when
# they move by 0.05 it is 1.2 times as far from the truth as it claims, in the end 1.0 (giants, S/N 200).
ROUNDS, SETTLED = 40, 0.005
AT_ONCE = 64  # stars: bounds the memory of second derivatives
MOST_TERMS = 100  # of the label scale; with more labels it shifts and stretches but does not bend


def train_pixels(
    known: Known, mean: np.ndarray, cov: np.ndarray, reported: np.ndarray, err: np.ndarray, flux: np.ndarray,
    flux_err: np.ndarray, features: Any, *, progress: Callable[[str], None] = lambda text: None,
) -> tuple[PixelEmulator, np.ndarray, np.ndarray]:  # fmt: skip
    """Fit weights to labels, labels to spectra, and again.

    Weights fitted to noisy labels are biased: slopes too flat, curvature too small. So the true labels of the training
    stars are unknowns: given the weights, star i's labels are near N(x_i, C_i), from its spectrum, what was reported of
    it, and a Gaussian population; given those, the weights follow from E[phi] and E[phi phi'] (expectation
    maximisation). A spectrum may tell the labels far better than what was reported does; then the scale of the labels
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
    n_term = quadratic(jnp.zeros(mean.shape[1])).shape[0]
    n_term = n_term if mean.shape[1] * n_term <= MOST_TERMS else 1 + mean.shape[1]
    layer, scale = None, np.zeros((mean.shape[1], 0) * 2)
    for number in range(1 if exact else ROUNDS):
        phi, spread = _moments_of(features, jnp.asarray(mean), jnp.asarray(cov))
        layer = pixel_layer(np.asarray(phi), None if exact else np.asarray(spread), flux, flux_err, start=layer)
        if exact:
            break
        before = mean
        mean, cov, moved, scale = _labels_given(features, layer, flux, flux_err, mean, value, told, n_term)
        off = float(np.sqrt((((mean - before) ** 2) / np.einsum("ill->il", cov)).mean()))
        progress(f"training: round {number + 1}, labels moved by {off:.3f} sd, their scale by {moved:.4f}")
        if off < SETTLED:
            break
    assert layer is not None
    return PixelEmulator(known, layer, features, scale), mean, cov


@jax.jit
def _moments_of(features: Any, mean: Array, cov: Array) -> tuple[Array, Array]:
    """E[phi] and the covariance of phi, of labels N(mean, cov): to second order in the labels' sd."""

    def one(x: Array, c: Array) -> tuple[Array, Array]:
        slope, bend = jax.jacfwd(features.of)(x), jax.hessian(features.of)(x)
        return features.of(x) + 0.5 * jnp.einsum("flm,lm->f", bend, c), slope @ c @ slope.T

    found: tuple[Array, Array] = jax.lax.map(lambda each: one(*each), (mean, cov), batch_size=AT_ONCE)
    return found


def _labels_given(
    features: Any, layer: PixelLayer, flux: np.ndarray, err: np.ndarray, start: np.ndarray, value: np.ndarray,
    told: np.ndarray, n_term: int,
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:  # fmt: skip
    """The true labels given weights, spectra and reports; how far the label scale moved, and its covariance."""
    centre, wide = start.mean(axis=0), np.linalg.inv(np.cov(start.T).reshape(start.shape[1], -1))
    packed = pack_spectra(layer, flux, err, n_node=1)
    seen = np.isfinite(flux) & np.isfinite(layer.scatter)
    variance = np.where(seen, err, 1.0) ** 2 + np.where(np.isfinite(layer.scatter), layer.scatter, 0.0)
    doubt = np.where(seen, 1.0 / (layer.scale * variance), 0.0).sum(axis=1)  # E[w w'] - E[w] E[w'] = doubt U
    at, phi, slope, gram = map(np.asarray, from_spectrum(
        features, packed, *map(jnp.asarray, (doubt, layer.spread, start, centre, wide))
    ))  # fmt: skip
    terms = np.asarray(jax.vmap(quadratic)(jnp.asarray(at)))[:, :n_term]
    shift, _, scale = label_scale(terms, phi, slope, gram, doubt, told, value - at)
    info = np.swapaxes(slope, 1, 2) @ (gram + doubt[:, None, None] * layer.spread) @ slope
    # the spectrum's own vote: without the population, moved onto the scale of the reported labels
    vote = np.einsum("ilm,im->il", info + wide, at) - wide @ centre + np.einsum("ilm,im->il", info, shift)
    precision = info + wide + told[:, :, None] * np.eye(at.shape[1])
    mean = np.linalg.solve(precision, (vote + told * value + wide @ centre)[..., None])[..., 0]
    return mean, np.linalg.inv(precision), float(np.sqrt((shift**2).mean())), scale
