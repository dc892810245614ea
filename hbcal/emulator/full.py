"""Quadratic in the labels, the residuals of all pixels correlated: an emulator in closed form."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import (
    MOST_MISSING,
    Emulator,
    Known,
    Predicted,
    mode_near,
    stretched_err,
    stretched_whole,
    why_not,
)
from hbcal.numerics.last_layer import Compressed, LastLayer

QUIETEST = 0.05  # of the training stars' noise


class FullSpectrum(NamedTuple):
    """Spectra as the emulator takes them.

    Attributes:
        pixels, beside: of `LastLayer.compress`, meta being the columns of the second kind.
        louder: how much more noise each has in its pixels than the training stars, (n_star,).
    """

    pixels: Compressed
    beside: Compressed
    louder: AnyArray


@pytree
class FullEmulator(Emulator):
    """arcsinh of the flux is N(W' phi(x), (s + phi' U phi) S), see `hbcal.numerics.last_layer`.

        s = 1 + median over pixels of (e^2 - photons) / max(S_pp, photons)

    S is of the training stars, their photon noise in it. A spectrum whose errors e are larger or smaller than theirs
    has as much more or less of all noise, as correlated as what labels leave over. Meta, given the pixels, has s = 1.

    Attributes:
        known: `Known`.
        layer: W, U and S.
        photons: mean square of the training stars' errors, after the stretch, (n_pix,).
    """

    known: Known
    layer: LastLayer
    photons: AnyArray

    def read(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None, corr: np.ndarray | None = None
    ) -> tuple[FullSpectrum, np.ndarray]:
        """The numbers of `LastLayer.compress`; what is missing, of pixels a few, is integrated out."""
        whole, unit = stretched_whole(flux, self.layer.filled)
        y, photons = with_meta(whole, meta), np.asarray(self.photons)
        most = np.maximum(np.diagonal(np.asarray(self.layer.noise))[: len(photons)], photons)
        more = (stretched_err(flux, flux_err, unit) ** 2 - photons) / most
        some = np.isfinite(more).any(axis=1, keepdims=True)
        louder = 1.0 + np.nanmedian(np.where(some, more, 0.0), axis=1)
        why = why_not(flux, MOST_MISSING)
        parts = self.layer.compress(np.where((why == "")[:, None], y, np.nan), len(photons))
        return FullSpectrum(*parts, jnp.asarray(np.maximum(louder, QUIETEST))), why

    def log_likelihood(self, x: Float[Array, " n_label"], star: FullSpectrum) -> Array:
        """ln N(spectrum; W' phi, (s + phi' U phi) S)."""
        phi = quadratic(x)
        told = self.layer.log_density(phi, star.pixels, star.louder)
        return told + self.layer.log_density(phi, star.beside, jnp.ones(()))

    def misfit(self, x: Float[Array, " n_label"], star: FullSpectrum) -> Array:
        """chi2 per pixel."""
        phi = quadratic(x)
        chi2 = self.layer.chi2(phi, star.pixels) / star.louder + self.layer.chi2(phi, star.beside)
        return chi2 / jnp.maximum(star.pixels.n + jnp.asarray(star.beside.n), 1.0)

    def predict(self, x: Float[Array, " n_label"]) -> Predicted:
        """W' phi, and a root of (1 + phi' U phi) S, photon noise of the training stars in it."""
        phi, n = quadratic(x), len(self.photons)
        root = jnp.sqrt(1.0 + self.layer.leverage(phi)) * jnp.linalg.cholesky(jnp.asarray(self.layer.noise)[:n, :n])
        return Predicted(phi @ jnp.asarray(self.layer.mean)[:, :n], jnp.zeros(n), root)

    def guess(self, stars: FullSpectrum) -> tuple[Array, Array]:
        """The mode near the likeliest training star."""
        return mode_near(self, stars)


def quadratic(x: Float[Array, " n_label"]) -> Array:
    """One, the labels, and their products: the features of a quadratic model of spectra.

    Args:
        x: scaled labels.

    Returns:
        (1 + n_label + n_label (n_label + 1) / 2) features.

    Errors:
        None.

    Example:
        >>> quadratic(jnp.array([2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]

    Source: Ness et al. 2015, ApJ 808, 16, equation 3.
    """
    upper = np.triu_indices(x.shape[0])
    return jnp.concatenate([jnp.ones(1), x, (x[:, None] * x[None, :])[upper]])


def with_meta(y: np.ndarray, meta: np.ndarray | None) -> np.ndarray:
    """Pixels, and what is measured beside them as more columns.

    Args:
        y: (n_star, n_pix).
        meta: (n_star, n_meta), or None.

    Returns:
        (n_star, n_pix + n_meta).

    Errors:
        None.

    Example:
        >>> with_meta(np.zeros((2, 3)), np.ones((2, 1))).shape
        (2, 4)
    """
    return y if meta is None else np.concatenate([y, meta], axis=1)
