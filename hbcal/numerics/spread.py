"""How much wider posteriors have to be, told by stars whose labels are known and by what is odd about a star."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats import chi2

from hbcal._typing import Array
from hbcal.numerics.intervals import distance
from hbcal.numerics.lowest import lowest

DOF = 5.0  # of the Student t that residuals are fitted with: a few wild labels do not widen all others
LOOSE = 0.3  # prior sd of each coefficient but the first
EDGE = 0.002
COMMON = slice(1, 3)  # signs that few stars can tell of: misfit and extrapolation
UNKNOWN = 1e3  # error, in scaled labels, of one that is not known
STEPS = np.linspace(-0.7, 0.9, 321)  # logs of factors
KEPT = np.linspace(1.0, 0.0, 11)  # shares of correlations
WANTED = ((1.0, 0.683), (1.96, 0.95))


def n_sign(n_label: int) -> int:
    """How many numbers `signs` gives for a star.

    Args:
        n_label: labels.

    Returns:
        A number.

    Errors:
        None.

    Example:
        >>> n_sign(4)
        11
    """
    return 3 + 2 * n_label


def signs(misfit: np.ndarray, extrapolation: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What may tell that a posterior is too narrow: one, misfit and extrapolation as normal scores, labels and squares.

    Args:
        misfit, extrapolation: ranks between 0 and 1, (n_star,); NaN counts as a half.
        x: scaled labels, (n_star, n_label).

    Returns:
        (n_star, n_sign): scores and labels between -3 and 3, squares less one.

    Errors:
        None.

    Example:
        >>> signs(np.array([0.5]), np.array([1.0]), np.array([[9.0]])).round(2).tolist()
        [[1.0, 0.0, 2.88, 3.0, 8.0]]
    """
    score = lambda rank: ndtri(np.clip(np.nan_to_num(rank, nan=0.5), EDGE, 1.0 - EDGE))  # noqa: E731
    near = np.clip(np.nan_to_num(x), -3.0, 3.0)
    return np.column_stack([np.ones(len(x)), score(misfit), score(extrapolation), near, near**2 - 1.0])


def fit_spread(z: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The log factor on each label's sd, linear in a star's signs.

        z_il / s_il ~ t_5,  ln s_il = signs_i . b_l,  b_l ~ N(0, 0.3^2) but for the constant

    The constant is set last, so that of the shares of stars within 1 and 1.96 sd the one that is farther from 68.3% and
    95% comes as near as one number can bring both.

    Args:
        z: residuals of stars with known labels in units of their sd, (n_star, n_label); NaN is left out.
        told: of `signs`.

    Returns:
        b, (n_sign, n_label).

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> told = signs(rng.uniform(size=4000), np.full(4000, 0.5), np.zeros((4000, 1)))
        >>> z = np.exp(0.2 + 0.3 * told[:, 1:2]) * rng.normal(size=(4000, 1))
        >>> fit_spread(z, told)[:2, 0].round(1).tolist()
        [0.2, 0.3]

    Source: conformal prediction with a normalised score (Lei et al. 2018, JASA 113, 1094), here in a few numbers.
    """
    out = np.zeros((told.shape[1], z.shape[1]))
    for l in range(z.shape[1]):
        ok = np.isfinite(z[:, l])
        if not ok.any():
            continue
        at, seen = jnp.asarray(z[ok, l]), jnp.asarray(told[ok])
        slope = jax.jit(jax.value_and_grad(lambda b, at=at, seen=seen: _cost(b, at, seen)))
        found = minimize(
            lambda b, slope=slope: _floats(slope(jnp.asarray(b))), out[:, l], jac=True, method="L-BFGS-B"
        ).x
        left = np.abs(z[ok, l]) * np.exp(-told[ok] @ found)
        steps = np.linspace(-0.7, 0.7, 281)
        off = [max(abs((left * np.exp(-step) < k).mean() - p) for k, p in WANTED) for step in steps]
        found[0] += steps[int(np.argmin(off))]
        out[:, l] = found
    return out


def fit_common_spread(apart: np.ndarray, cov: np.ndarray, err: np.ndarray, told: np.ndarray) -> np.ndarray:
    """As `fit_spread`, of few stars: a star's labels are off together, by factors that misfit and extrapolation tell.

        off_i ~ t_5(0, S_i C_i S_i + err_i^2),  ln s_il = a_l + b . signs_i,  a_l - mean(a), b ~ N(0, 0.3^2)

    Some hundreds of stars with eleven labels cannot say how each label's factor hangs on all signs: with a coefficient
    for every sign and label, held-out stars come out less likely than with none. The mean of a is set last, so that of
    joint regions, and of all labels' intervals taken together, the share that is farthest from 68.3% or 95% comes as
    near as one number can bring them all.

    Args:
        apart: truth less mean, (n_star, n_label), NaN where it is not known.
        cov: of the posteriors, (n_star, n_label, n_label).
        err: of the truth.
        told: of `signs`.

    Returns:
        b as `fit_spread` returns it, (n_sign, n_label); zeros where no star has a posterior.

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> told = signs(np.full(900, 0.5), rng.uniform(size=900), np.zeros((900, 2)))
        >>> apart = np.exp(0.2 + 0.3 * told[:, 2:3]) * rng.normal(size=(900, 2))
        >>> found = fit_common_spread(apart, np.tile(np.eye(2), (900, 1, 1)), np.zeros((900, 2)), told)
        >>> found[[0, 2]].round(1).tolist()
        [[0.2, 0.2], [0.3, 0.3]]
    """
    n_label, out = apart.shape[1], np.zeros((told.shape[1], apart.shape[1]))
    ok = np.isfinite(cov).all(axis=(1, 2))
    if not ok.any():
        return out
    known = np.isfinite(apart[ok])
    n_known = jnp.asarray(known.sum(axis=1))
    noise = np.where(known, err[ok], UNKNOWN)[:, :, None] ** 2 * np.eye(n_label)
    off, cov, some = np.where(known, apart[ok], 0.0), cov[ok], told[ok][:, COMMON]

    def energy(p: Array) -> Array:
        a, b = p[:n_label], p[n_label:]
        s = jnp.exp(a[None] + (some @ b)[:, None])
        root = jnp.linalg.cholesky(s[:, :, None] * cov * s[:, None, :] + noise)
        half = jax.vmap(lambda r, y: jax.scipy.linalg.solve_triangular(r, y, lower=True))(root, jnp.asarray(off))
        tail = 0.5 * (DOF + n_known) * jnp.log1p((half**2).sum(axis=1) / DOF)
        log_det = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        return (tail + log_det).sum() + 0.5 * ((b**2).sum() + ((a - a.mean()) ** 2).sum()) / LOOSE**2

    found = lowest(energy, np.zeros(n_label + some.shape[1]), [(-3.0, 3.0)] * (n_label + some.shape[1]))
    s = np.exp(found[:n_label] + (some @ found[n_label:])[:, None])
    wide, whole = s[:, :, None] * cov * s[:, None, :], known.all(axis=1)

    def worst(step: float) -> float:
        total = np.exp(2.0 * step) * wide + noise
        z = np.abs(off / np.sqrt(np.einsum("sll->sl", total)))[known]
        far = distance(off, total)[whole]
        missed = [abs((z < k).mean() - p) for k, p in WANTED]
        missed += [abs((far < chi2.ppf(p, n_label)).mean() - p) for _, p in WANTED if whole.any()]
        return float(max(missed))

    out[0] = found[:n_label] + STEPS[int(np.argmin([worst(step) for step in STEPS]))]
    out[COMMON] = found[n_label:, None]
    return out


def loosened(cov: np.ndarray, kept: float) -> np.ndarray:
    """Covariances whose correlations are multiplied by a number.

    Args:
        cov: (n_star, n_label, n_label).
        kept: between 0 and 1.

    Returns:
        The same shape, with the same diagonals.

    Errors:
        None.

    Example:
        >>> loosened(np.array([[[4.0, 1.0], [1.0, 1.0]]]), 0.5).tolist()
        [[[4.0, 0.5], [0.5, 1.0]]]
    """
    return cov * (kept + (1.0 - kept) * np.eye(cov.shape[-1]))


def moved_to(off: np.ndarray, cov: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Draws with one covariance turned into draws with another: off' = L' L^-1 off of the Cholesky factors.

    Args:
        off: draws less their mean, (n_star, n_draw, n_label).
        cov, new: (n_star, n_label, n_label); where one of them is no covariance, draws stay as they are.

    Returns:
        The same shape as `off`.

    Errors:
        None.

    Example:
        >>> moved_to(np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.full((1, 1, 1), 9.0)).tolist()
        [[[3.0]]]
    """
    eye = np.eye(cov.shape[-1])
    fine = np.isfinite(cov + new).all(axis=(1, 2)) & (np.linalg.det(cov) > 0.0) & (np.linalg.det(new) > 0.0)
    old, to = (np.linalg.cholesky(np.where(fine[:, None, None], each, eye)) for each in (cov, new))
    return np.einsum("slm,sdm->sdl", to @ np.linalg.inv(old), off)


def fit_kept(apart: np.ndarray, cov: np.ndarray, err: np.ndarray) -> float:
    """Which share of the correlations between a posterior's labels its errors bear out.

    What an emulator does not know moves labels in other directions than noise does: along those that noise leaves
    narrow, too, and there a posterior made wider label by label stays too narrow. Residuals are taken for draws of a
    Student t with 5 degrees of freedom, and the likeliest of eleven shares is returned.

    Args:
        apart: truth less mean, (n_star, n_label); stars with a NaN are left out.
        cov: of the posteriors, as wide as `fit_spread` makes them.
        err: of the truth.

    Returns:
        A number between 0 and 1.

    Errors:
        None.

    Example:
        >>> rng, cov = np.random.default_rng(0), np.tile([[1.0, 0.9], [0.9, 1.0]], (300, 1, 1))
        >>> fit_kept(rng.normal(size=(300, 2)), cov, np.zeros((300, 2)))
        0.0
    """
    ok = np.isfinite(apart).all(axis=1) & np.isfinite(cov).all(axis=(1, 2))
    if not ok.any():
        return 1.0
    apart, cov, noise = apart[ok], cov[ok], err[ok][:, :, None] ** 2 * np.eye(apart.shape[1])

    def likely(kept: float) -> float:
        total = loosened(cov, kept) + noise
        far = distance(apart, total)
        return float(-(0.5 * np.linalg.slogdet(total)[1] + 0.5 * (DOF + apart.shape[1]) * np.log1p(far / DOF)).sum())

    return float(KEPT[int(np.argmax([likely(kept) for kept in KEPT]))])


def _cost(b: Array, z: Array, told: Array) -> Array:
    log_s = told @ b
    tail = 0.5 * (DOF + 1.0) * jnp.log1p((z * jnp.exp(-log_s)) ** 2 / DOF)
    return (tail + log_s).sum() + 0.5 * (b[1:] ** 2).sum() / LOOSE**2


def _floats(pair: tuple[Array, Array]) -> tuple[float, np.ndarray]:
    return float(pair[0]), np.asarray(pair[1])
