"""The last layer of an emulator of independent pixels: each pixel's weights, their posterior, and its scatter."""

from __future__ import annotations

import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray
from hbcal.numerics.shrink import shrink

RIDGE = 1e-6  # prior precision of a weight, in units of a training star's information
BLOCK = 512  # pixels that are fitted at a time: bounds the memory
STEPS, SETTLED = 60, 1e-4
FEW = 2  # stars per feature: a pixel that fewer stars have is not used


@pytree
class PixelLayer:
    """Weights w_p of each pixel, with N(w_p' phi, e_p^2 + s_p^2 + phi' U phi / b_p) for a new spectrum's pixel p.

    The posterior covariance U_p of w_p is kept as a shape U that all pixels share, that of sum_p U_p / v_p, and a scale
    1 / b_p each, that of phi' U_p phi averaged over the training stars, so that a spectrum's density depends on its
    labels through phi and one number, phi' U phi, only: what lets `hbcal.numerics.packed_spectrum` forget the pixels.

    Attributes:
        weights: w_p, (n_pix, n_feature).
        scatter: s_p^2, what stars of equal labels differ in, (n_pix,); infinite where too few stars were seen.
        spread: U, (n_feature, n_feature).
        scale: b_p, (n_pix,).
    """

    weights: AnyArray
    scatter: AnyArray
    spread: AnyArray
    scale: AnyArray


def pack(square: np.ndarray) -> np.ndarray:
    """Symmetric matrices as vectors whose inner product with `pack_twice` of another is the trace of their product.

    Args:
        square: (..., n, n).

    Returns:
        (..., n (n + 1) / 2).

    Errors:
        None.

    Example:
        >>> a = np.array([[1.0, 2.0], [2.0, 5.0]])
        >>> bool(pack(a) @ pack_twice(a) == np.trace(a @ a))
        True
    """
    upper = np.triu_indices(square.shape[-1])
    return square[..., upper[0], upper[1]]


def pack_twice(square: np.ndarray) -> np.ndarray:
    """As `pack`, with what is off the diagonal doubled.

    Args:
        square: (..., n, n).

    Returns:
        (..., n (n + 1) / 2).

    Errors:
        None.

    Example:
        >>> pack_twice(np.array([[1.0, 2.0], [2.0, 5.0]])).tolist()
        [1.0, 4.0, 5.0]
    """
    n = square.shape[-1]
    return pack(square * (2.0 - np.eye(n)))


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """The symmetric matrices that `pack` was given.

    Args:
        packed: (..., n (n + 1) / 2).
        n: their size.

    Returns:
        (..., n, n).

    Errors:
        None.

    Example:
        >>> unpack(np.array([1.0, 2.0, 5.0]), 2).tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """
    return packed[..., where_packed(n)]


def where_packed(n: int) -> np.ndarray:
    """Where in a packed vector each element of the matrix is, (n, n).

    Args:
        n: size of the matrix.

    Returns:
        Integers.

    Errors:
        None.

    Example:
        >>> where_packed(2).tolist()
        [[0, 1], [1, 2]]
    """
    where = np.zeros((n, n), int)
    upper = np.triu_indices(n)
    where[upper] = np.arange(len(upper[0]))
    where.T[upper] = where[upper]
    return where


def pixel_layer(
    features: np.ndarray, spread: np.ndarray | None, flux: np.ndarray, flux_err: np.ndarray, *, ridge: float = RIDGE,
    start: PixelLayer | None = None,
) -> PixelLayer:  # fmt: skip
    """Fit weights and scatter of all pixels, each on its own.

        w_p = U_p sum_i E[phi_i] f_ip / v_ip,   U_p = (sum_i E[phi_i phi_i'] / v_ip)^-1,   v_ip = e_ip^2 + s_p^2
        s_p:  sum_i (E[(f_ip - w_p' phi_i)^2] + phi_i' U_p phi_i) / v_ip^2 = sum_i 1 / v_ip

    the second line being the stationary point of the restricted likelihood, which counts what the weights took. The
    expectations are over the labels of the training stars as far as they are known. What comes back is the posterior of
    w_p under a prior that all pixels have in common and tell themselves, see `hbcal.numerics.shrink`.

    Args:
        features: E[phi], (n_star, n_feature), of order one.
        spread: covariance of phi from the labels' uncertainty, (n_star, n_feature, n_feature); None for none.
        flux, flux_err: (n_star, n_pix), NaN where missing: such a pixel has no influence at all.
        ridge: prior precision of a weight relative to the mean information of one star.
        start: a layer whose scatter is near.

    Returns:
        The layer.

    Errors:
        None; pixels that too few stars have get an infinite scatter.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> phi = np.column_stack([np.ones(4000), rng.normal(size=4000)])
        >>> y = phi @ np.array([[1.0], [0.5]]) + rng.normal(0.0, np.hypot(0.03, 0.04), (4000, 1))
        >>> layer = pixel_layer(phi, None, y, np.full_like(y, 0.03))
        >>> layer.weights.round(2).tolist(), round(float(np.sqrt(layer.scatter[0])), 3)
        ([[1.0, 0.5]], 0.04)

    Source: Ness et al. 2015, ApJ 808, 16 (the model); Patterson and Thompson 1971, Biometrika 58, 545 (REML).
    """
    n_pix = flux.shape[1]
    second = features[:, :, None] * features[:, None, :]
    second_packed = pack(second if spread is None else second + spread)
    twice = pack_twice(second)
    extra = None if spread is None else pack_twice(spread)
    near = np.full(n_pix, np.nan) if start is None else np.asarray(start.scatter)
    blocks = (slice(at, at + BLOCK) for at in range(0, n_pix, BLOCK))
    parts = [
        _block(features, second_packed, twice, extra, flux[:, at], flux_err[:, at], ridge, near[at]) for at in blocks
    ]
    weights, scatter, cov, level = (np.concatenate([part[k] for part in parts]) for k in range(4))
    usable = np.isfinite(scatter)
    if usable.any():
        weights[usable], cov[usable] = shrink(weights[usable], cov[usable])
    # the shape: that of the sum over pixels, which is what labels feel
    shape = np.einsum("p,pfg->fg", usable / level, cov) / max(usable.sum(), 1)
    typical = pack_twice(second).mean(axis=0)
    reach = np.maximum(pack(cov) @ typical, 1e-300)
    return PixelLayer(weights, scatter, shape, np.where(usable, (pack(shape) @ typical) / reach, 1.0))


def _block(
    features: np.ndarray, second: np.ndarray, twice: np.ndarray, extra: np.ndarray | None, flux: np.ndarray,
    err: np.ndarray, ridge: float, near: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Weights, scatter, covariance of the weights and typical variance of a flux, for some pixels."""
    n_feature = features.shape[1]
    seen = np.isfinite(flux) & np.isfinite(err)
    y, noise = np.where(seen, flux, 0.0), np.where(seen, err, 1.0) ** 2
    enough = seen.sum(axis=0) >= FEW * n_feature
    level = np.where(enough, (noise * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1), 1.0)
    scatter = np.where(np.isfinite(near), near, level)
    identity = np.eye(n_feature)
    for _ in range(STEPS):
        weight = seen / (noise + scatter)
        gram = (
            unpack(weight.T @ second, n_feature)
            + np.where(enough, ridge * weight.mean(axis=0), 1.0)[:, None, None] * identity
        )
        cov = np.linalg.inv(gram)
        w = np.einsum("pfg,pg->pf", cov, (weight * y).T @ features)
        leverage = twice @ pack(cov).T
        square = (y - features @ w.T) ** 2 + leverage
        if extra is not None:
            square += extra @ pack(w[:, :, None] * w[:, None, :]).T
        squared = weight**2
        move = ((squared * square).sum(axis=0) - weight.sum(axis=0)) / np.maximum(squared.sum(axis=0), 1e-300)
        before, scatter = scatter, np.maximum(scatter + move, 0.0)
        if (np.abs(scatter - before) <= SETTLED * (level + scatter))[enough].all():
            break
    w, cov = np.where(enough[:, None], w, 0.0), np.where(enough[:, None, None], cov, 0.0)
    return w, np.where(enough, scatter, np.inf), cov, level + scatter
