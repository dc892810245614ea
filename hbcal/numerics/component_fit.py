"""One or two Gaussians fitted to stars whose errors are known: the mode of their posterior and its curvature there.

For two, f = (1 - s) N_1 + s N_2, of each star; for one beside others that stay, f = (1 - s) g + s N; for one alone
there is no s. Around a mean m and a root L the numbers fitted are

    mu = m + L delta,   Sigma = L (I + E) (I + E)^T L^T,   E lower triangular,   and logit s

so that none has a unit. With V = Sigma + S, alpha = V^-1 (x - m), beta = L^T alpha, U = L^T V^-1 L and r the share of a
star that a component has, the slopes of ln f are

    r beta for delta,   r (beta beta^T - U) for E,   r_2 - s for logit s

and the curvature, of its expectation where Fisher's information gives one, is

    sum r U for delta,   sum r (U_rq U_cp + U_rp U_cq) for E_rc, E_pq,   n s (1 - s) for logit s,

less sum r (1 - r) h h^T, h the difference of the two slopes of ln(w N), since who has whom is not known.
Together with the prior's, they give Newton's step, damped as Levenberg and Marquardt did; and at the mode the posterior
is close to the Gaussian that they describe, the closer since L, not Sigma or its logarithm, is what is Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Float
from hbcal.numerics.star_mixture import solved
from hbcal.numerics.stars import Stars, lower, places

FLOOR = 0.05  # of the curvature; a prior of widths within a factor of two has 2
LogPrior = Callable[[Array, Array], Array]  # means, roots -> ln p(mu, Sigma) of each, a density in the entries of Sigma


class Fit(NamedTuple):
    """The Gaussian that a posterior looks like: numbers t = (delta, E, ...; logit s) ~ N(0, H^-1).

    Attributes:
        logit: of s, at the mode.
        mean, root: there, (n_comp, n_dim) and (n_comp, n_dim, n_dim).
        turn, size: eigenvectors and eigenvalues of H.
    """

    logit: Array
    mean: Array
    root: Array
    turn: Array
    size: Array


def fitted(
    stars: Stars,
    logit: Array,
    mean: Float[Array, "n_comp n_dim"],
    root: Float[Array, "n_comp n_dim n_dim"],
    log_prior: LogPrior,
    steps: int,
    other: Array | None = None,
) -> Fit:
    """Find the mode, and the curvature there.

    Args:
        stars: those whose `real` is 1.
        logit, mean, root: where to begin; one component or two.
        log_prior: of a component; that of logit s is flat.
        steps: of Newton's method. What is not the mode after them makes a worse proposal, not a wrong one.
        other: ln g, (n_block, n_lane), where one component is fitted beside others.

    Returns:
        `Fit`.

    Errors:
        None.

    Example:
        >>> flat = lambda mean, root: jnp.zeros(len(mean))
        >>> fit = fitted(tiny_mixture().stars, jnp.array(0.0), jnp.zeros((1, 2)), jnp.eye(2)[None], flat, 10)
        >>> fit.size.shape
        (5,)
    """
    sound = jnp.isfinite(root).all(axis=(1, 2), keepdims=True)  # LAPACK does not come back from NaN
    mean, root = jnp.where(sound[:, 0], mean, 0.0), jnp.where(sound, root, jnp.eye(mean.shape[1])[None])

    def step(state: Any, _: Any) -> tuple[Any, None]:
        at, value, slope, curve, damp = state
        size, turn = jnp.linalg.eigh(curve)
        size = jnp.maximum(jnp.abs(size), FLOOR)
        t = turn @ ((turn.T @ slope) / (size * (1.0 + damp)))
        t = t * jnp.minimum(1.0, 1.0 / jnp.abs(t).max())  # nothing moves by more than its own width
        new = _moved(t, *at)
        found = _posterior(stars, *new, log_prior, other)
        better = found[0] > value
        take = lambda new, old: jnp.where(better, new, old)  # noqa: E731
        at, (value, slope, curve) = jax.tree.map(take, new, at), jax.tree.map(take, found, (value, slope, curve))
        return (at, value, slope, curve, jnp.where(better, damp / 3.0, 4.0 * damp + 1.0)), None

    n = mean.size * (mean.shape[1] + 3) // 2 + (len(mean) == 2 or other is not None)
    # the first step, without a slope, stays where it is and finds one
    state = ((logit, mean, root), jnp.array(-jnp.inf), jnp.zeros(n), jnp.eye(n), jnp.zeros(()))
    (logit, mean, root), _, _, curve, _ = jax.lax.scan(step, state, None, length=steps)[0]
    size, turn = jnp.linalg.eigh(curve)
    return Fit(logit, mean, root, turn, jnp.maximum(size, FLOOR))


def draw_fit(key: Array, fit: Fit) -> tuple[Array, Array, Array]:
    """A draw of what a fit describes; a root whose diagonal is not positive has density 0 in `log_fit`.

    Args:
        key: of the draw.
        fit: of `fitted`.

    Returns:
        s, means and roots.

    Errors:
        None.

    Example:
        >>> fit = Fit(jnp.array(0.0), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)), jnp.eye(2), jnp.full(2, 1e12))
        >>> [round(float(each.sum()), 3) + 0.0 for each in draw_fit(jax.random.PRNGKey(0), fit)]
        [0.5, 0.0, 1.0]
    """
    t = fit.turn @ (jax.random.normal(key, fit.size.shape) / jnp.sqrt(fit.size))
    logit, mean, root = _moved(t, fit.logit, fit.mean, fit.root)
    return jax.nn.sigmoid(logit), mean, root


def log_fit(share: Array, mean: Array, root: Array, fit: Fit) -> Float[Array, ""]:
    """ln of the density of what `draw_fit` draws, in s (of two), the means, and the entries of Sigma.

    Args:
        share, mean, root: as `draw_fit` gives them, roots with a positive diagonal.
        fit: of `fitted`.

    Returns:
        A number; the volume of s is that of (0, 1).

    Errors:
        None.

    Example:
        >>> one = jnp.ones((1, 1, 1))
        >>> fit = Fit(jnp.array(0.0), jnp.zeros((1, 1)), one, jnp.eye(2), jnp.ones(2))
        >>> found = float(jnp.exp(log_fit(jnp.array(0.5), jnp.zeros((1, 1)), one, fit)))
        >>> round(found, 6) == round(0.5 / (2.0 * np.pi), 6)  # of mu and L; Sigma = L^2 has half of it at L = 1
        True
    """
    d = mean.shape[1]
    solve = jax.vmap(lambda old, new: jax.scipy.linalg.solve_triangular(old, new, lower=True))
    delta, bend = solve(fit.root, (mean - fit.mean)[..., None])[..., 0], solve(fit.root, root) - jnp.eye(d)[None]
    t = jnp.concatenate([delta, lower(bend)], axis=1).ravel()
    shared = len(fit.size) > len(t)
    if shared:
        t = jnp.append(t, jnp.log(share) - jnp.log1p(-share) - fit.logit)
    away = fit.turn.T @ t
    normal = 0.5 * (jnp.log(fit.size) - fit.size * away**2 - np.log(2.0 * np.pi)).sum()
    log_diagonal = jnp.log(jnp.diagonal(fit.root, axis1=1, axis2=2))
    volume = (np.arange(2, d + 2)[None] * log_diagonal).sum() + log_volume(root).sum() + len(mean) * d * np.log(2.0)
    return normal - volume - (jnp.log(share) + jnp.log1p(-share) if shared else 0.0)


def log_volume(root: Float[Array, "n_comp n_dim n_dim"]) -> Float[Array, " n_comp"]:
    """ln of the volume of Sigma = L L^T per volume of L, but for n_dim ln 2.

        |d Sigma / d L| = 2^n_dim prod_r L_rr^(n_dim - r + 1),   r = 1 ... n_dim

    Args:
        root: lower triangular, with a positive diagonal.

    Returns:
        A number per component.

    Errors:
        None.

    Example:
        >>> log_volume(jnp.diag(jnp.exp(jnp.array([1.0, 2.0])))[None]).tolist()
        [4.0]
    """
    d = root.shape[1]
    return (jnp.arange(d, 0, -1)[None] * jnp.log(jnp.diagonal(root, axis1=1, axis2=2))).sum(1)


def _moved(t: Array, logit: Array, mean: Array, root: Array) -> tuple[Array, Array, Array]:
    k, d = mean.shape
    each = t[: k * (d + d * (d + 1) // 2)].reshape(k, -1)
    row, column = np.tril_indices(d)
    bend = jnp.zeros((k, d, d)).at[:, row, column].set(each[:, d:])
    new = root + root @ bend
    return (logit + t[-1] if len(t) > each.size else logit), mean + (root @ each[:, :d, None])[..., 0], new


def _posterior(
    stars: Stars, logit: Array, mean: Array, root: Array, log_prior: LogPrior, other: Array | None
) -> tuple[Array, Array, Array]:
    """ln of the posterior, a density in L; its slope; its curvature."""
    (k, d), alone = mean.shape, len(mean) == 1 and other is None
    n_each = d + d * (d + 1) // 2
    other = jnp.full(jnp.shape(stars.real), -jnp.inf) if other is None else other
    row, column = np.tril_indices(d)
    rr, rc, cc, dd = (places(*each) for each in ((row, row), (row, column), (column, column), (np.arange(d),) * 2))
    # lower(L^T W L) = turn @ lower(W)
    turn = root[:, row[None, :], row[:, None]] * root[:, column[None, :], column[:, None]]
    turn += jnp.where((row != column)[None, None, :], root[:, column[None, :], row[:, None]]
                      * root[:, row[None, :], column[:, None]], 0.0)  # fmt: skip
    rest_w, last_w = jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)
    log_w = jnp.zeros(1) if alone else jnp.stack([rest_w, last_w]) if k == 2 else last_w[None]
    cov = lower(root @ jnp.swapaxes(root, 1, 2))

    def one(total: Any, item: Any) -> tuple[Any, None]:
        block, other = item
        log_density, alpha, w = jax.lax.optimization_barrier(solved(block, mean, cov))
        joint = log_w[:, None] + log_density
        whole = jnp.logaddexp(jax.nn.logsumexp(joint, axis=0), rest_w + other)
        share = jnp.exp(joint - whole[None]) * block.real[None]
        beta, u = jnp.einsum("kij,kil->kjl", root, alpha), turn @ w
        slope = jnp.concatenate([beta, beta[:, row] * beta[:, column] - u], axis=1)
        share, u, slope = jax.lax.optimization_barrier((share, u, slope))
        found = [
            (whole * block.real).sum(), (share[:, None] * slope).sum(2), (share[:, None] * u).sum(2),
            jnp.einsum("kpl,kql->kpq", u * share[:, None], u),
        ]  # fmt: skip
        if not alone:  # the share of the first, or of the others, is what the last does not have
            h = jnp.concatenate([*(-slope[:-1]), slope[-1], jnp.ones_like(whole)[None]])
            found += [(h * (share[-1] * (block.real - share[-1]))[None]) @ h.T, share[-1].sum()]
        return jax.tree.map(jnp.add, total, found), None

    n_pair = len(row)
    nothing = [jnp.zeros(()), jnp.zeros((k, n_each)), jnp.zeros((k, n_pair)), jnp.zeros((k, n_pair, n_pair))]
    n = k * n_each + 1
    nothing += [] if alone else [jnp.zeros((n, n)), jnp.zeros(())]
    value, slope, of_delta, of_bend, *mixed = jax.lax.scan(one, nothing, (stars, other))[0]

    def log_density(t: Array, mean: Array, root: Array) -> Array:
        _, mean, root = _moved(t, logit, mean[None], root[None])
        return (log_prior(mean, root) + log_volume(root))[0]

    start = jnp.zeros((k, n_each))
    value += jax.vmap(log_density)(start, mean, root).sum()
    slope += jax.vmap(jax.grad(log_density))(start, mean, root)
    curve = -jax.vmap(jax.hessian(log_density))(start, mean, root)
    curve = curve.at[:, :d, :d].add(of_delta[:, dd])
    two = lambda one, other: of_bend[:, one, other]  # noqa: E731
    curve = curve.at[:, d:, d:].add(two(rc, rc.T) + two(rr, cc))
    if alone:
        return value, slope[0], curve[0]
    crossed, n_last = mixed
    n_star, s = jnp.asarray(stars.real).sum(), jax.nn.sigmoid(logit)
    whole = jax.scipy.linalg.block_diag(*curve, (n_star * s * (1.0 - s))[None, None]) - crossed
    return value, jnp.append(slope.ravel(), n_last - n_star * s), whole
