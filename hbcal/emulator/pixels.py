"""Independent pixels with known errors: each has its own weights on shared features of the labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import Emulator, Known
from hbcal.emulator.full import quadratic
from hbcal.numerics.packed_spectrum import PackedSpectrum, moments, off_by, pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer


@pytree
class Quadratic:
    """One, the labels, and their products."""

    def of(self, x: Float[Array, "n_label"]) -> Array:
        """phi(x)."""
        return quadratic(x)


@pytree
class Hidden:
    """One, the labels, and the last hidden layer of a network of two.

    Attributes:
        first, first_bias: (n_label, n_hidden), (n_hidden,).
        last, last_bias: (n_hidden, n_last), (n_last,).
    """

    first: AnyArray
    first_bias: AnyArray
    last: AnyArray
    last_bias: AnyArray

    def of(self, x: Float[Array, "n_label"]) -> Array:
        """phi(x)."""
        inner = jax.nn.gelu(x @ self.first + self.first_bias)
        return jnp.concatenate([jnp.ones(1), x, jnp.tanh(inner @ self.last + self.last_bias)])


@pytree
class PixelEmulator(Emulator):
    """f_p is N(w_p' phi(x + d), e_p^2 + s_p^2 + phi' U phi / b_p),  d_l ~ N(0, (1, x)' D_l (1, x)).

    Two errors of the emulator: the weights' own, from the photon noise of the training spectra, independent from pixel
    to pixel; and that of the labels' scale, from the errors of the training labels, which shifts and stretches all
    pixels together and so cannot be averaged away.

    Attributes:
        known: `Known`.
        layer: w, s, U and b.
        features: phi, with a method ``of``.
        scale: D, (n_label, 1 + n_label, 1 + n_label).
    """

    known: Known
    layer: PixelLayer
    features: Any
    scale: AnyArray

    def read(self, flux: np.ndarray, flux_err: np.ndarray) -> tuple[PackedSpectrum, np.ndarray]:
        """Sums over the pixels that are there; the flux as it is given."""
        packed = pack_spectra(self.layer, flux, flux_err)
        n_feature = self.layer.weights.shape[1]
        return packed, np.where(np.asarray(packed.n_seen) >= n_feature, "", "missing pixels")

    def log_likelihood(self, x: Float[Array, "n_label"], star: PackedSpectrum) -> Array:
        """ln N(spectrum; W phi, V + emulator error)."""
        chi2, log_det = self._off(x, star)
        return -0.5 * (chi2 + log_det)

    def misfit(self, x: Float[Array, "n_label"], star: PackedSpectrum) -> Array:
        """chi2 per pixel."""
        return self._off(x, star)[0] / jnp.maximum(star.n_seen, 1.0)

    def _off(self, x: Array, star: PackedSpectrum) -> tuple[Array, Array]:
        phi = self.features.of(x)
        leverage = phi @ self.layer.spread @ phi
        affine = jnp.concatenate([jnp.ones(1), x])
        sd = jnp.sqrt(jnp.einsum("lab,a,b->l", self.scale, affine, affine) + 1e-20)
        return off_by(moments(star, leverage, len(phi)), phi, jax.jacfwd(self.features.of)(x), sd)
