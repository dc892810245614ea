"""A spectrum of any number of independent pixels as a few sufficient statistics, emulator error included."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.numerics.pixel_layer import PixelLayer, pack, where_packed

N_NODE = 8  # of the polynomials in t; the error is below 1e-3 where pixels' b_p v_p differ tenfold, see the test
BLIND = 1e3  # times the usual variance: a pixel marked bad by its error is not seen, or the series would suffer
CHUNK = 64  # spectra that are packed at a time: bounds the memory


@pytree
class PackedSpectrum:
    """A spectrum given the weights, for every phi and every leverage h = phi' U phi.

    With v_p = e_p^2 + s_p^2 and t = h / (h + h_0) between 0 and 1,

        1 / (v_p + h / b_p) = (1 - t) q_p(t),   q_p(t) = 1 / (v_p (1 - t) + h_0 t / b_p)

    and sum_p q_p w_p w_p', sum_p q_p w_p f_p, sum_p q_p f_p^2 and -sum_p ln q_p are smooth in t: they are kept as
    Chebyshev series. h_0, the median of b_p v_p, puts the poles of q far away.

    Attributes:
        series: of the four sums, (n_star, N_NODE, n_feature (n_feature + 1) / 2 + n_feature + 2).
        turn: h_0, (n_star,).
        n_seen: pixels, (n_star,).
    """

    series: AnyArray
    turn: AnyArray
    n_seen: AnyArray


@pytree
class Moments:
    """One spectrum at one leverage: chi2 = square - 2 cross' phi + phi' gram phi; log_det = sum_p ln(variance).

    Attributes:
        gram: (n_feature, n_feature).
        cross: (n_feature,).
        square, log_det: numbers.
    """

    gram: AnyArray
    cross: AnyArray
    square: AnyArray
    log_det: AnyArray


def pack_spectra(layer: PixelLayer, flux: np.ndarray, flux_err: np.ndarray, n_node: int = N_NODE) -> PackedSpectrum:
    """Sum over the pixels, once for every spectrum.

    Args:
        layer: of the emulator.
        flux, flux_err: (n_star, n_pix), NaN where missing: such a pixel is not there.
        n_node: terms of the series; 1 for no emulator error.

    Returns:
        `PackedSpectrum`.

    Errors:
        None; a spectrum without a pixel packs to zeros.

    Example:
        >>> layer = PixelLayer(np.ones((5, 1)), np.zeros(5), np.eye(1), np.ones(5))
        >>> packed = pack_spectra(layer, np.ones((2, 5)), np.full((2, 5), 0.1))
        >>> packed.series.shape, packed.n_seen.tolist()
        ((2, 8, 4), [5.0, 5.0])
    """
    weights = np.asarray(layer.weights)
    outer = pack(weights[:, :, None] * weights[:, None, :])
    parts = [
        _pack(layer, weights, lambda q: q @ outer, flux[at : at + CHUNK], flux_err[at : at + CHUNK], n_node)
        for at in range(0, len(flux), CHUNK)
    ]
    return PackedSpectrum(*(jnp.asarray(np.concatenate([part[k] for part in parts])) for k in range(3)))


def pack_own(
    layer: PixelLayer, weights: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, n_node: int = N_NODE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `pack_spectra`, of one spectrum that has weights of its own.

    Args:
        layer: for the variances.
        weights: (n_pix, n), in place of the layer's.
        flux, flux_err: (n_pix,), NaN where missing.
        n_node: terms of the series.

    Returns:
        The three arrays of `PackedSpectrum`, each with a leading axis of one.

    Errors:
        None.

    Example:
        >>> layer = PixelLayer(np.ones((5, 1)), np.zeros(5), np.eye(1), np.ones(5))
        >>> series, _, _ = pack_own(layer, np.ones((5, 2)), np.ones(5), np.full(5, 0.1))
        >>> series.shape
        (1, 8, 7)
    """
    return _pack(layer, weights, lambda q: pack((weights * q.T).T @ weights)[None], flux[None], flux_err[None], n_node)


def _pack(
    layer: PixelLayer, weights: np.ndarray, gram: Callable[[np.ndarray], np.ndarray], flux: np.ndarray,
    err: np.ndarray, n_node: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    scatter, scale = np.asarray(layer.scatter), np.asarray(layer.scale)
    seen = np.isfinite(flux) & np.isfinite(err) & np.isfinite(scatter)
    y = np.where(seen, flux, 0.0)
    v = np.where(seen, np.where(seen, err, 1.0) ** 2 + np.where(np.isfinite(scatter), scatter, 0.0), 1.0)
    some = seen.any(axis=1)
    turn = np.ones(len(flux))
    if some.any():
        level = lambda: np.nanmedian(np.where(seen[some], v[some] * scale, np.nan), axis=1)  # noqa: E731
        seen[some] &= v[some] * scale <= BLIND * level()[:, None]
        turn[some] = level()
    nodes, to_series = _nodes(n_node)
    values = []
    for t in nodes:
        d = v * (1.0 - t) + turn[:, None] * t / scale
        q = seen / d
        values.append(
            np.column_stack([gram(q), (q * y) @ weights, (q * y**2).sum(1), np.where(seen, np.log(d), 0.0).sum(1)])
        )
    series = np.einsum("kn,nsm->skm", to_series, np.stack(values))
    return series, turn, seen.sum(axis=1).astype(float)


def _nodes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev-Lobatto nodes on [0, 1], no leverage among them, and the matrix from values there to coefficients."""
    if n == 1:
        return np.zeros(1), np.ones((1, 1))
    z = -np.cos(np.pi * np.arange(n) / (n - 1))
    return 0.5 * (z + 1.0), np.linalg.inv(np.polynomial.chebyshev.chebvander(z, n - 1))


def moments(packed: PackedSpectrum, leverage: Array, n_feature: int) -> Moments:
    """The sums of one spectrum at a leverage.

    Args:
        packed: of one spectrum.
        leverage: phi' U phi, at least 0.
        n_feature: how many features.

    Returns:
        `Moments`.

    Errors:
        None.

    Example:
        >>> layer = PixelLayer(np.ones((5, 1)), np.zeros(5), np.eye(1), np.ones(5))
        >>> packed = pack_spectra(layer, np.ones((1, 5)), np.ones((1, 5)))
        >>> one = PackedSpectrum(packed.series[0], packed.turn[0], packed.n_seen[0])
        >>> round(float(moments(one, jnp.asarray(1.0), 1).gram[0, 0]), 4)  # 5 pixels of variance 1 + 1
        2.5
    """
    t = leverage / (leverage + packed.turn)
    z, n_node = 2.0 * t - 1.0, packed.series.shape[0]
    terms = [jnp.ones_like(z), z]
    for _ in range(n_node - 2):
        terms.append(2.0 * z * terms[-1] - terms[-2])
    sums = jnp.stack(terms[:n_node]) @ packed.series
    n_packed = n_feature * (n_feature + 1) // 2
    log_det = sums[-1] - packed.n_seen * jnp.log1p(-t)
    sums = (1.0 - t) * sums
    return Moments(sums[:n_packed][where_packed(n_feature)], sums[n_packed:-2], sums[-2], log_det)


def off_by(
    found: Moments, phi: Float[Array, " n_feature"], reach: Float[Array, "n_feature n_error"]
) -> tuple[Array, Array]:
    """chi2 and ln det of a spectrum whose features are uncertain, too, by N(0, reach reach').

        f - w' phi ~ N(0, V + A A'),   A = w' reach

    an error that all pixels share. By Woodbury's identity the sums over pixels are all that is needed.

    Args:
        found: the sums.
        phi: features.
        reach: a root of the covariance of the features; d phi / d labels times that of labels, say.

    Returns:
        chi2 and ln det, numbers.

    Errors:
        None.

    Example:
        >>> found = Moments(jnp.eye(1), jnp.ones(1), jnp.ones(()), jnp.zeros(()))
        >>> chi2, log_det = off_by(found, jnp.zeros(1), jnp.ones((1, 1)))
        >>> round(float(chi2), 6), round(float(log_det), 6)  # one pixel of variance 1 + 1
        (0.5, 0.693147)

    Source: Woodbury 1950; the Sherman-Morrison-Woodbury identity.
    """
    chi2, pull, root = _pulled(found, phi, reach)
    half = jax.scipy.linalg.solve_triangular(root, pull, lower=True)
    log_det = found.log_det + 2.0 * jnp.log(jnp.diagonal(root)).sum()
    return jnp.asarray(chi2 - half @ half), jnp.asarray(log_det)


def without(found: Moments, reach: Float[Array, "n_feature n_error"]) -> Moments:
    """The sums once the shared error of `off_by` is integrated out, at one reach; ln det as it was.

        V^-1 becomes V^-1 - V^-1 A M^-1 A' V^-1

    Args:
        found, reach: of `off_by`.

    Returns:
        `Moments`.

    Errors:
        None.

    Example:
        >>> found = Moments(jnp.eye(1), jnp.ones(1), jnp.ones(()), jnp.zeros(()))
        >>> round(float(without(found, jnp.ones((1, 1))).gram[0, 0]), 6)  # one pixel of variance 1 + 1
        0.5
    """
    _, pull, root = _pulled(found, jnp.zeros(len(reach)), reach)
    told = jnp.concatenate([reach.T @ found.gram, pull[:, None]], axis=1)
    half = jax.scipy.linalg.solve_triangular(root, told, lower=True)
    lost = half.T @ half
    return Moments(found.gram - lost[:-1, :-1], found.cross - lost[:-1, -1], found.square - lost[-1, -1], found.log_det)


def error_given(
    found: Moments, phi: Float[Array, " n_feature"], reach: Float[Array, "n_feature n_error"]
) -> tuple[Array, Array]:
    """What the spectrum says of the shared error d ~ N(0, reach reach') of `off_by`.

        d = reach u,   u ~ N(M^-1 A' V^-1 r, M^-1),   M = 1 + A' V^-1 A,   A = w' reach

    Args:
        found, phi, reach: of `off_by`.

    Returns:
        Mean and covariance of d.

    Errors:
        None.

    Example:
        >>> found = Moments(jnp.eye(1), jnp.ones(1), jnp.ones(()), jnp.zeros(()))
        >>> mean, cov = error_given(found, jnp.zeros(1), jnp.ones((1, 1)))
        >>> round(float(mean[0]), 6), round(float(cov[0, 0]), 6)  # one pixel of 1 +- 1, and a prior of 0 +- 1
        (0.5, 0.5)
    """
    _, pull, inner = _pulled(found, phi, reach)
    half = jax.scipy.linalg.solve_triangular(inner, reach.T, lower=True)
    return half.T @ jax.scipy.linalg.solve_triangular(inner, pull, lower=True), half.T @ half


def _pulled(found: Moments, phi: Array, reach: Array) -> tuple[Array, Array, Array]:
    """chi2 without the error that is shared, A' V^-1 r, and the root of 1 + A' V^-1 A."""
    at = found.gram @ phi
    chi2 = found.square - 2.0 * found.cross @ phi + phi @ at
    inner = jnp.linalg.cholesky(jnp.eye(reach.shape[1]) + reach.T @ found.gram @ reach)
    return jnp.asarray(chi2), reach.T @ (found.cross - at), inner
