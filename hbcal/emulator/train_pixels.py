"""Fit an emulator of independent pixels to stars whose labels have errors, or are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from hbcal.emulator.base import Known
from hbcal.emulator.noisy_labels import Vote, settled
from hbcal.emulator.pixels import PixelEmulator, from_spectrum
from hbcal.numerics.packed_spectrum import pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer, pixel_layer


def train_pixels(
    known: Known, mean: np.ndarray, cov: np.ndarray, reported: np.ndarray, err: np.ndarray, flux: np.ndarray,
    flux_err: np.ndarray, features: Any, *, progress: Callable[[str], None] = lambda text: None,
) -> tuple[PixelEmulator, np.ndarray, np.ndarray]:  # fmt: skip
    """Fit weights to labels, labels to spectra, and again.

    See `hbcal.emulator.noisy_labels`.

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
    """

    def fit(phi: np.ndarray, spread: np.ndarray | None, before: PixelLayer | None) -> PixelLayer:
        return pixel_layer(phi, spread, flux, flux_err, start=before)

    def vote(layer: PixelLayer, start: np.ndarray, centre: np.ndarray, wide: np.ndarray) -> Vote:
        packed = pack_spectra(layer, flux, flux_err, n_node=1)
        seen = np.isfinite(flux) & np.isfinite(layer.scatter)
        variance = np.where(seen, flux_err, 1.0) ** 2 + np.where(np.isfinite(layer.scatter), layer.scatter, 0.0)
        doubt = np.where(seen, 1.0 / (layer.scale * variance), 0.0).sum(axis=1)
        given = map(jnp.asarray, (doubt, layer.spread, start, centre, wide))
        at, phi, slope, gram = map(np.asarray, from_spectrum(features, packed, *given))
        return Vote(at, phi, slope, gram, doubt, np.asarray(layer.spread))

    layer, mean, cov, scale = settled(features, fit, vote, mean, cov, reported, err, progress=progress)
    return PixelEmulator(known, layer, features, scale), mean, cov
