"""Draws around a guess, weighed by the density and moved to where it is: importance sampling that adapts once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import fdtri

from hbcal._typing import Array, Float

STEPS, LONGEST = 25, 1.0
DOF = 5.0  # of the proposal's Student t: heavier than any Gaussian tail


def newton_mode(log_density: Callable[[Any], Array], start: Float[Array, " n"]) -> tuple[Array, Array]:
    """The mode near a start, and a root of the covariance there.

    Newton steps in the eigenvectors of the Hessian, with |eigenvalue| for eigenvalue, so that every step climbs; no
    step is longer than one unit, and one that does not climb is taken back and the next made four times shorter.

    Args:
        log_density: of (n,); smooth.
        start: where to begin, in coordinates of order one.

    Returns:
        The mode, and A with A A' = covariance.

    Errors:
        None; a density without curvature gets a wide covariance.

    Example:
        >>> mode, root = newton_mode(lambda x: -0.5 * ((x - 3.0) ** 2).sum() / 4.0, jnp.zeros(1))
        >>> round(float(mode[0]), 6), round(float(root[0, 0]), 6)
        (3.0, 2.0)
    """

    def turned(x: Array) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(-jax.hessian(log_density)(x))
        return jnp.maximum(jnp.abs(values), 1e-2), vectors

    def step(state: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], None]:
        x, here, short = state
        values, vectors = turned(x)
        move = vectors @ ((vectors.T @ jax.grad(log_density)(x)) / values)
        move = short * move * jnp.minimum(1.0, LONGEST / jnp.maximum(jnp.linalg.norm(move), 1e-30))
        there = log_density(x + move)
        climbs = there >= here
        climbed = (jnp.where(climbs, x + move, x), jnp.where(climbs, there, here))
        return (*climbed, jnp.where(climbs, jnp.minimum(1.0, 2.0 * short), 0.25 * short)), None

    (mode, _, _), _ = jax.lax.scan(step, (start, log_density(start), jnp.ones(())), None, length=STEPS)
    values, vectors = turned(mode)
    return mode, vectors / jnp.sqrt(values)[None, :]


def frames(rng: np.random.Generator, n_star: int, n_draw: int, n: int) -> np.ndarray:
    """Draws of the standard Student t whose first three moments are right in every few of them.

        t = +- r_b q_bj,   q_b1 ... q_bn the columns of a random rotation,   r_b^2 / n ~ F(n, DOF), stratified over b

    A draw at random among them is one of the t, but the 2n draws of a block lie on a sphere as evenly as may be. So
    what weighted draws say of the mean and covariance of a density near the proposal has no error but that of a radius
    in each block, where independent draws leave a covariance with the error of a sample: regions of d labels from n
    effective draws then are too small, by about (n - d - 1) / n in the squared distance.

    Args:
        rng: generator.
        n_star: stars, each with draws of its own, so that stars share no error.
        n_draw: at least this many draws of each.
        n: dimension.

    Returns:
        (n_star, n_draw or a little more, n).

    Errors:
        None.

    Example:
        >>> import numpy as np
        >>> t = frames(np.random.default_rng(0), 2, 96, 4)
        >>> t.shape, bool(np.abs(t.mean(axis=1)).max() < 1e-12)
        ((2, 96, 4), True)
        >>> second = np.einsum("sda,sdb->sab", t, t) / 96  # DOF / (DOF - 2) times the identity, on the average
        >>> bool(np.allclose(second / second[:, :1, :1], np.eye(4)))
        True

    Source: Genz and Monahan 1998, SIAM J. Sci. Comput. 19, 426 (stochastic spherical-radial rules).
    """
    n_block = -(-n_draw // (2 * n))
    turn, _ = np.linalg.qr(rng.normal(size=(n_star, n_block, n, n)))
    share = (np.arange(n_block) + rng.uniform(size=(n_star, n_block))) / n_block
    radius = np.sqrt(n * fdtri(n, DOF, np.minimum(share, 1.0 - 1e-12)))
    half = (radius[:, :, None, None] * np.swapaxes(turn, 2, 3)).reshape(n_star, n_block * n, n)
    return np.concatenate([half, -half], axis=1)


def weigh_around(
    log_density: Callable[[Any], Array], mode: Float[Array, " n"], root: Float[Array, "n n"], noise: Float[Array, "m n"]
) -> tuple[Array, Array]:
    """Draws of a Student t around a mode, and their log importance weights.

    Args:
        log_density: of (n,), up to a number.
        mode, root: of `newton_mode`.
        noise: draws of the standard t with `DOF` degrees of freedom and identity scale.

    Returns:
        The draws (m, n), and ln density(draw) - ln proposal(draw), up to a number, (m,).

    Errors:
        None.

    Example:
        >>> noise = jnp.array([[0.0], [1.0]])
        >>> draws, weight = weigh_around(lambda x: -0.5 * (x**2).sum(), jnp.zeros(1), jnp.eye(1), noise)
        >>> draws.tolist(), [round(float(w), 3) for w in weight]
        ([[0.0], [1.0]], [0.0, 0.047])
    """
    draws = mode[None, :] + noise @ root.T
    proposal = -0.5 * (DOF + mode.shape[0]) * jnp.log1p((noise**2).sum(-1) / DOF)
    return draws, jax.vmap(log_density)(draws) - proposal


def resampled(
    rng: np.random.Generator, draws: Float[np.ndarray, "n_star m n"], share: Float[np.ndarray, "n_star m"]
) -> np.ndarray:
    """As many draws that all count the same: each as often as its share says, to within one.

    Args:
        rng: of where counting begins, and of the order.
        draws: of every star.
        share: theirs; adds up to anything.

    Returns:
        The shape of `draws`; a star whose shares are not numbers keeps its draws.

    Errors:
        None.

    Example:
        >>> draws = np.arange(4.0)[None, :, None]
        >>> sorted(resampled(np.random.default_rng(0), draws, np.array([[0.5, 0.0, 0.25, 0.25]])).ravel().tolist())
        [0.0, 0.0, 2.0, 3.0]

    Source: systematic resampling, e.g. Douc, Cappe and Moulines 2005, arXiv:cs/0507025.
    """
    n_star, m = share.shape
    with np.errstate(invalid="ignore"):
        below = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
    at = (np.arange(m) + rng.uniform(size=(n_star, 1))) / m
    rows = np.stack([np.searchsorted(one, here, side="right") for one, here in zip(below, at, strict=True)])
    rows = np.where(np.isfinite(below).all(axis=1, keepdims=True), np.minimum(rows, m - 1), np.arange(m))
    return np.take_along_axis(draws, rng.permuted(rows, axis=1)[:, :, None], axis=1)


def closer(draws: Float[Array, "m n"], weight: Float[Array, " m"], *, wider: float = 1.2) -> tuple[Array, Array]:
    """Where weighted draws say that the density is: centre and root for the next round of `weigh_around`.

    The weights are flattened until no tenth of the draws holds all of them: (w_i / max w)^(1/2) of a poor guess still
    points the right way, where w itself would leave one draw.

    Args:
        draws, weight: of `weigh_around`.
        wider: factor on the covariance.

    Returns:
        A centre (n,) and a root (n, n).

    Errors:
        None.

    Example:
        >>> draws = jnp.array([[-1.0], [0.0], [1.0], [2.0]])
        >>> centre, root = closer(draws, jnp.array([-1e3, 0.0, 0.0, -1e3]))
        >>> round(float(centre[0]), 3)
        0.5
    """
    n = draws.shape[1]

    def share(power: float) -> Array:
        return jax.nn.softmax(power * weight)

    enough = [1.0 / (share(power) ** 2).sum() >= 0.1 * len(weight) for power in (1.0, 0.5)]
    p = jnp.where(enough[0], share(1.0), jnp.where(enough[1], share(0.5), share(0.25)))
    centre = p @ draws
    left = draws - centre[None, :]
    cov = (p[:, None] * left).T @ left
    floor = 1e-6 * jnp.trace(cov) / n + 1e-12
    return centre, jnp.linalg.cholesky(wider * cov + floor * jnp.eye(n))
