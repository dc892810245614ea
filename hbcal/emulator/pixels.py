"""Independent pixels with known errors: each has its own weights on shared features of the labels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import Emulator, Known, Predicted
from hbcal.emulator.full import quadratic
from hbcal.numerics.banded import smooth_err
from hbcal.numerics.gaussian_process import Processes
from hbcal.numerics.packed_spectrum import Moments, PackedSpectrum, moments, off_by, pack_spectra, without
from hbcal.numerics.pixel_layer import PixelLayer

GAUSS_NEWTON = 12
AT_ONCE = 64  # stars: bounds the memory of what is known of their features


class Features:
    """Functions phi of the labels, in which a pixel's mean is linear. Subclasses are pytrees.

    Where phi is not ``known``, ``doubt(x)`` is a root of its covariance.
    """

    known = True

    @abstractmethod
    def of(self, x: Float[Array, " n_label"]) -> Array:
        """phi(x), (n_feature,)."""

    def slope(self, x: Float[Array, " n_label"]) -> Array:
        """d phi / dx, (n_feature, n_label)."""
        return jax.jacfwd(self.of)(x)


@pytree
class Quadratic(Features):
    """One, the labels, and their products."""

    def of(self, x: Float[Array, " n_label"]) -> Array:
        """phi(x)."""
        return quadratic(x)


@pytree
class Hidden(Features):
    """One, the labels, and the last hidden layer of a network of two.

    Attributes:
        first, first_bias: (n_label, n_hidden), (n_hidden,).
        last, last_bias: (n_hidden, n_last), (n_last,).
    """

    first: AnyArray
    first_bias: AnyArray
    last: AnyArray
    last_bias: AnyArray

    def of(self, x: Float[Array, " n_label"]) -> Array:
        """phi(x)."""
        inner = jax.nn.gelu(x @ self.first + self.first_bias)
        return jnp.concatenate([jnp.ones(1), x, jnp.tanh(inner @ self.last + self.last_bias)])


@pytree
class Components(Features):
    """One, and the spectrum's principal components, each a Gaussian process of the labels.

    Attributes:
        processes: what the training stars say of the components.
        own: variance of each that labels do not tell, (n_component,).
        together: R, (n_component, n_component): the components' errors in units of their sds have covariance R R'.
        floor: sd of errors that look like errors of the labels, (n_label,), see `hbcal.emulator.processes`.
    """

    processes: Processes
    own: AnyArray
    together: AnyArray
    floor: AnyArray
    known = False

    def of(self, x: Float[Array, " n_label"]) -> Array:
        """phi(x), its mean."""
        return jnp.concatenate([jnp.ones(1), self.processes.mean(x)])

    def slope(self, x: Float[Array, " n_label"]) -> Array:
        """d phi / dx, (n_feature, n_label)."""
        return jnp.concatenate([jnp.zeros((1, len(x))), self.processes.slope(x)])

    def doubt(self, x: Float[Array, " n_label"]) -> Array:
        """A root of the covariance of phi(x), (n_feature, n_component + n_label): large far from the training stars."""
        sd = jnp.sqrt(self.processes.variance(x) + self.own)
        errors = jnp.concatenate([sd[:, None] * self.together, self.processes.slope(x) * self.floor[None]], axis=1)
        return jnp.concatenate([jnp.zeros((1, errors.shape[1])), errors])


@pytree
class PixelSpectrum:
    """A spectrum, and how uncertain its features are.

    Attributes:
        packed: sums over the pixels.
        doubt: a root of the covariance of phi at the labels that `PixelEmulator.guess` finds, (n_star, n_feature, n);
            None where phi is known.
    """

    packed: PackedSpectrum
    doubt: AnyArray | None


@pytree
class PixelEmulator(Emulator):
    """f_p is N(w_p' phi(x + d), e_p^2 + s_p^2 + phi' U phi / b_p),  d_l = sum_a D_la psi_a(x).

    Where the spectra say that the noise of neighbouring pixels goes together, e is as large as smooth features see it.

    Errors of the emulator: the weights' own, from the photon noise of the training spectra, taken as independent from
    pixel to pixel, be that noise so or not; that of the labels' scale, from the errors of the training labels, which
    shifts, stretches and bends all pixels together and so is not averaged away by having many: psi = (1, x, x x'), see
    `hbcal.numerics.label_scale`; and, all pixels together too, that of the features where they were learned from few
    stars. The last is taken as it is at a first estimate of the labels: it costs the square of the training stars'
    number, once for a spectrum rather than for every draw, and regions of held-out MOOG spectra hold no fewer stars so.

    Attributes:
        known: `Known`.
        layer: w, s, U and b.
        features: phi, of `Features`.
        scale: covariance of D, (n_label, n_term, n_label, n_term); no term where it is exact.
    """

    known: Known
    layer: PixelLayer
    features: Any
    scale: AnyArray
    stretches = False
    n_draw = 768

    def read(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None, corr: np.ndarray | None = None
    ) -> tuple[PixelSpectrum, np.ndarray]:
        """Sums over the pixels that are there; the flux as it is given."""
        packed = pack_spectra(self.layer, flux, flux_err if corr is None else smooth_err(corr, flux_err))
        n_feature = self.layer.weights.shape[1]
        doubt = None if self.features.known else self.doubt(_guess(self, packed)[0])
        return PixelSpectrum(packed, doubt), np.where(np.asarray(packed.n_seen) >= n_feature, "", "missing pixels")

    def doubt(self, x: Float[Array, "n_star n_label"]) -> Array | None:
        """Roots of the covariances of phi, (n_star, n_feature, n); None where it is known."""
        if self.features.known:
            return None
        return jax.lax.map(self.features.doubt, x, batch_size=AT_ONCE)

    def log_likelihood(self, x: Float[Array, " n_label"], star: PixelSpectrum) -> Array:
        """ln N(spectrum; W phi, V + emulator error)."""
        chi2, log_det = self._off(x, star)
        return -0.5 * (chi2 + log_det)

    def misfit(self, x: Float[Array, " n_label"], star: PixelSpectrum) -> Array:
        """chi2 per pixel."""
        return self._off(x, star)[0] / jnp.maximum(star.packed.n_seen, 1.0)

    def predict(self, x: Float[Array, " n_label"]) -> Predicted:
        """W phi, s^2 + phi' U phi / b, and W times the root of the covariance of phi."""
        layer, phi = self.layer, self.features.of(x)
        weights, doubt = jnp.asarray(layer.weights), None if self.features.known else self.features.doubt(x)
        own = jnp.asarray(layer.scatter) + (phi @ layer.spread @ phi) / jnp.asarray(layer.scale)
        return Predicted(weights @ phi, own, weights @ self.reach(x, doubt))

    def guess(self, stars: PixelSpectrum) -> tuple[Array, Array]:
        """As `guess_packed`."""
        return self.guess_packed(stars.packed)

    def guess_packed(self, stars: PackedSpectrum) -> tuple[Array, Array]:
        """Gauss-Newton from the training star with the nearest spectrum: centres, and roots of the covariances."""
        starts, spread = jnp.asarray(self.known.starts), jnp.asarray(self.layer.spread)
        n_feature, n_label = self.layer.weights.shape[1], starts.shape[1]
        phi = jax.vmap(self.features.of)(starts)
        upper = np.triu_indices(n_feature)
        pairs = (phi[:, :, None] * phi[:, None, :])[:, upper[0], upper[1]] * jnp.where(upper[0] == upper[1], 1.0, 2.0)[
            None
        ]
        signs = (-1.0) ** np.arange(stars.series.shape[1])  # the series where there is no leverage
        sums = jnp.einsum("k,skm->sm", signs, stars.series)
        chi2 = sums[:, : pairs.shape[1]] @ pairs.T - 2.0 * sums[:, pairs.shape[1] : -2] @ phi.T
        start, centre = starts[jnp.argmin(chi2, axis=1)], starts.mean(axis=0)
        wide = jnp.linalg.inv(jnp.cov(starts.T).reshape(n_label, n_label) + 1e-9 * jnp.eye(n_label))
        at, _, slope, gram = from_spectrum(self.features, stars, jnp.zeros(len(sums)), spread, start, centre, wide)
        cov = jnp.linalg.inv(jnp.swapaxes(slope, 1, 2) @ gram @ slope + wide[None])
        if self.scale.shape[1]:
            scale = jax.vmap(lambda x: scale_root(self.scale, x))(at)
            cov = cov + scale @ jnp.swapaxes(scale, 1, 2)
        return at, jnp.linalg.cholesky(cov)

    def reach(self, x: Float[Array, " n_label"], doubt: AnyArray | None) -> Array:
        """A root of the covariance of phi: of the labels' scale and of what is not known of the features."""
        parts = [] if doubt is None else [jnp.asarray(doubt)]
        if self.scale.shape[1]:
            parts.append(self.features.slope(x) @ scale_root(self.scale, x))
        return jnp.concatenate([jnp.zeros((self.layer.weights.shape[1], 0)), *parts], axis=1)

    def _off(self, x: Array, star: PixelSpectrum) -> tuple[Array, Array]:
        phi = self.features.of(x)
        leverage = phi @ self.layer.spread @ phi
        return off_by(moments(star.packed, leverage, len(phi)), phi, self.reach(x, star.doubt))


@jax.jit
def _guess(emulator: PixelEmulator, packed: PackedSpectrum) -> tuple[Array, Array]:
    return emulator.guess_packed(packed)


def scale_root(scale: AnyArray, x: Float[Array, " n_label"]) -> Array:
    """Root of the covariance, at some labels, of the emulator's label scale.

    Args:
        scale: D, (n_label, n_term, n_label, n_term); n_term of the features of `quadratic`, from the first on.
        x: scaled labels.

    Returns:
        Lower triangular, (n_label, n_label).

    Errors:
        None.

    Example:
        >>> scale_root(0.04 * jnp.eye(2).reshape(2, 1, 2, 1), jnp.zeros(2)).round(3).tolist()
        [[0.2, 0.0], [0.0, 0.2]]
    """
    terms = quadratic(x)[: scale.shape[1]]
    cov = jnp.einsum("lamb,a,b->lm", jnp.asarray(scale), terms, terms)
    return jnp.linalg.cholesky(cov + 1e-14 * jnp.eye(len(x)))


@jax.jit
def from_spectrum(
    features: Any, packed: PackedSpectrum, doubt: Array, spread: Array, start: Array, centre: Array, wide: Array
) -> tuple[Array, Array, Array, Array]:
    """The likeliest labels of each star given its spectrum and a Gaussian population.

    Where features are uncertain, they are taken as known first, and then as uncertain as they are at what was found.

    Args:
        features: phi.
        packed: spectra.
        doubt, spread: E[w w'] - E[w] E[w'], summed over a spectrum's pixels, is doubt times spread.
        start: labels to begin with, (n_star, n_label).
        centre, wide: mean and precision of the population.

    Returns:
        Labels, phi and its slope there, and sum_p w_p w_p' / v_p less what the features' error takes.

    Errors:
        None.

    Example:
        >>> emulator = tiny_pixels()
        >>> stars, _ = emulator.read(tiny_spectra().flux, tiny_spectra().flux_err)
        >>> none, spread = jnp.zeros(400), jnp.eye(6)
        >>> told = from_spectrum(
        ...     emulator.features, stars.packed, none, spread, jnp.zeros((400, 2)), jnp.zeros(2), jnp.eye(2))
        >>> told[0].shape
        (400, 2)
    """

    def one(packed: PackedSpectrum, x: Array, extra: Array) -> tuple[Array, Array, Array, Array]:
        sums = moments(packed, jnp.zeros(()), n_feature)
        whole = replace(sums, gram=sums.gram + extra * spread)  # E[w w'], not E[w] E[w]'
        x = climbed(features, whole, x, centre, wide)
        if not features.known:
            doubt = features.doubt(x)
            sums, whole = (without(each, doubt) for each in (sums, whole))
            x = climbed(features, whole, x, centre, wide)
        return x, features.of(x), features.slope(x), jnp.asarray(sums.gram)

    n_feature = jax.eval_shape(features.of, start[0]).shape[0]
    return jax.vmap(one)(packed, start, doubt)


def climbed(features: Any, found: Moments, x: Array, centre: Array, wide: Array) -> Array:
    """The likeliest labels of one star whose spectrum is told by its sums.

    Args:
        features: phi.
        found: of the spectrum.
        x: labels to begin with, (n_label,).
        centre, wide: mean and precision of the population.

    Returns:
        (n_label,).

    Errors:
        None.

    Example:
        >>> none = jnp.zeros(())
        >>> found = Moments(jnp.diag(jnp.array([0.0, 4.0, 0.0])), jnp.array([0.0, 8.0, 0.0]), none, none)
        >>> climbed(Quadratic(), found, jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, 1))).round(3).tolist()
        [2.0]

    Source: Levenberg 1944, Quarterly of Applied Mathematics 2, 164; Marquardt 1963, SIAM J. Appl. Math. 11, 431.
    """

    def cost(x: Array) -> Array:
        phi, off = features.of(x), x - centre
        return found.square - 2.0 * found.cross @ phi + phi @ found.gram @ phi + off @ wide @ off

    def step(state: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], None]:
        x, here, damp = state
        phi, slope = features.of(x), features.slope(x)
        curve = slope.T @ found.gram @ slope + wide
        pull = slope.T @ (found.cross - found.gram @ phi) - wide @ (x - centre)
        there = x + jnp.linalg.solve(curve + damp * jnp.diag(jnp.diagonal(curve)), pull)
        new = cost(there)
        better = new <= here
        kept = (jnp.where(better, there, x), jnp.where(better, new, here))
        return (*kept, jnp.where(better, 0.1 * damp, 10.0 * damp)), None

    (x, _, _), _ = jax.lax.scan(step, (x, cost(x), jnp.asarray(1e-3)), None, length=GAUSS_NEWTON)
    return x
