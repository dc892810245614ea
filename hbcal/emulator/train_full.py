"""Fit a quadratic emulator of correlated pixels to stars whose labels have errors, or are missing."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._errors import HbcalError
from hbcal._typing import Array
from hbcal.emulator.base import Known, stretched, stretched_err
from hbcal.emulator.full import FullEmulator, quadratic, with_meta
from hbcal.emulator.noisy_labels import Vote, settled
from hbcal.emulator.pixels import Quadratic, climbed
from hbcal.numerics.last_layer import LastLayer, last_layer
from hbcal.numerics.packed_spectrum import Moments

RIDGE = 1e-6


def train_full(
    known: Known, mean: np.ndarray, cov: np.ndarray, reported: np.ndarray, err: np.ndarray, flux: np.ndarray,
    flux_err: np.ndarray, meta: np.ndarray | None = None, *, progress: Callable[[str], None] = lambda text: None,
) -> tuple[FullEmulator, np.ndarray]:  # fmt: skip
    """Fit weights and the covariance of what is left over, in closed form; labels with errors in turn with them.

    See `hbcal.emulator.noisy_labels`.

    Args:
        known: of the training stars.
        mean, cov: a first idea of the true labels, scaled, (n_star, n_label), (n_star, n_label, n_label).
        reported, err: labels and errors, scaled, NaN where missing; an error that is missing counts as none.
        flux, flux_err: (n_star, n_pix); stars with a missing pixel are left aside.
        meta: (n_star, n_meta), as `Emulator.read` takes it.
        progress: called with lines of text.

    Returns:
        `FullEmulator`, and the means of the true labels.

    Errors:
        HbcalError where fewer whole stars are left than pixels and their correlation ask for.

    Example:
        >>> x, flux = np.zeros((3, 2)), np.ones((3, 6))
        >>> train_full(tiny_emulator().known, x, np.zeros((3, 2, 2)), x, x, flux, flux)
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 3 of 3 training stars have every pixel; a quadratic emulator of 6 ...
    """
    y = with_meta(stretched(flux), meta)
    whole = np.isfinite(y).all(axis=1)
    y, n_pix, n_feature = y[whole], y.shape[1], quadratic(jnp.zeros(mean.shape[1])).shape[0]
    least = 2 * (n_pix + n_feature)
    if len(y) < least:
        raise HbcalError(
            f"{len(y)} of {len(flux)} training stars have every pixel; a quadratic emulator of {n_pix} "
            f"correlated pixels needs {least}: give more stars, or --noise independent."
        )

    def fit(phi: np.ndarray, spread: np.ndarray | None, before: LastLayer | None) -> LastLayer:
        return last_layer(phi, y, RIDGE, None if spread is None else spread.sum(axis=0))

    def vote(layer: LastLayer, start: np.ndarray, centre: np.ndarray, wide: np.ndarray) -> Vote:
        stars, _ = layer.compress(y, n_pix)
        doubt = np.full(len(y), float(n_pix))  # weights of two pixels are as correlated as their noise
        given = map(jnp.asarray, (n_pix * np.asarray(layer.spread), start, centre, wide))
        at, phi, slope = map(np.asarray, _voted(stars.r[0], stars.seen, *given))
        gram = np.broadcast_to(np.asarray(stars.r[0].T @ stars.r[0]), (len(y), n_feature, n_feature))
        return Vote(at, phi, slope, gram, doubt, np.asarray(layer.spread))

    layer, found, _, _ = settled(
        Quadratic(), fit, vote, mean[whole], cov[whole], reported[whole], err[whole], progress=progress
    )
    photons = (stretched_err(flux, flux_err)[whole] ** 2).mean(axis=0)
    mean = mean.copy()
    mean[whole] = found
    return FullEmulator(known, layer, photons), mean


@jax.jit
def _voted(r: Array, seen: Array, doubt: Array, start: Array, centre: Array, wide: Array) -> tuple[Array, ...]:
    """Labels of each star, all its pixels there, given its spectrum and the population; features and slopes there."""
    features, gram, none = Quadratic(), r.T @ r + doubt, jnp.zeros(())

    def one(seen: Array, x: Array) -> tuple[Array, ...]:
        x = climbed(features, Moments(gram, r.T @ seen, none, none), x, centre, wide)
        return x, features.of(x), features.slope(x)

    found: tuple[Array, ...] = jax.vmap(one)(seen, start)
    return found
