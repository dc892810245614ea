"""Gaussian processes that share a kernel, each with its own size and noise: functions of labels from few examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.numerics.lowest import lowest

LEAD, MOST_FITTED = 16, 500  # processes, and points, that the kernel is fitted to; the others follow it
STEPS = 120
USUAL_TILT = 0.3  # of ln strength over an input's scatter
USUAL_REACH = 1.0  # ln of a typical reach, +- 1, in units of the inputs' scatter: smoother than the points are dense
JITTER = 1e-9  # of the kernel's mean variance
RATIOS = np.logspace(-7.0, 1.5, 171)


@pytree
class Kernel:
    """Of functions that are a quadratic, its coefficients uncertain, and what is smooth beyond it.

        k(a, b) = s(a) s(b) (1 + r^2 / 8)^-4 + level + sum_l line_l a_l b_l + (sum_l bend_l a_l b_l)^2
        s(a) = exp(tilt' a),   r^2 = sum_l ((a_l - b_l) / reach_l)^2

    The strength of lines grows with labels like an exponential, and what a quadratic leaves of it like s: without the
    tilt, functions are too rough among hot, weak-lined stars and too smooth among cool ones, and so are their errors.

    Attributes:
        tilt: (n_input,).
        reach, line, bend: positive, (n_input,).
        level: positive.
    """

    tilt: AnyArray
    reach: AnyArray
    line: AnyArray
    bend: AnyArray
    level: AnyArray

    def between(self, a: Float[Array, "n n_input"], b: Float[Array, "m n_input"]) -> Array:
        """k of every pair, (n, m)."""
        p, q = a / self.reach[None], b / self.reach[None]
        square = (p**2).sum(1)[:, None] + (q**2).sum(1)[None] - 2.0 * p @ q.T
        curve = ((a * self.bend[None]) @ b.T) ** 2
        smooth = (1.0 + jnp.maximum(square, 0.0) / 8.0) ** -4.0
        strength = jnp.exp((a @ self.tilt)[:, None] + (b @ self.tilt)[None])
        return strength * smooth + self.level + (a * self.line[None]) @ b.T + curve

    def slope(self, x: Float[Array, " n_input"], at: Float[Array, "m n_input"], weights: Float[Array, "m n"]) -> Array:
        """d / dx of k(x, at) times weights, (n, n_input), by sums over the points that any number of x share."""
        n_input = len(x)
        moved = (at[:, :, None] * weights[:, None, :]).reshape(len(at), -1)
        apart = (x[None] - at) / self.reach[None]
        base = 1.0 + (apart**2).sum(1) / 8.0
        strength = jnp.exp(x @ self.tilt + at @ self.tilt)
        steep = strength * base**-5.0
        by_point = jnp.stack([steep, at @ (self.bend * x)]) @ moved
        falling, curve = by_point.reshape(2, n_input, -1)
        tilted = self.tilt[:, None] * (strength * base**-4.0 @ weights)[None]
        towards = (falling - x[:, None] * (steep @ weights)[None]) / (self.reach**2)[:, None]
        flat = self.line[:, None] * (at.T @ weights) + 2.0 * self.bend[:, None] * curve
        return jnp.asarray(tilted + towards + flat).T

    def alone(self, a: Float[Array, " n_input"]) -> Array:
        """k(a, a)."""
        return jnp.exp(2.0 * a @ self.tilt) + self.level + self.line @ a**2 + (self.bend @ a**2) ** 2


@pytree
class Processes:
    """What n points say of functions g_k, their kernel A_k k(a, b), their noise A_k t_k.

        g_k(x) ~ N(k(x)' W_k, A_k (k(x, x) - sum_j (Q' k(x))_j^2 / (L_j + t_k))),   K = Q L Q'

    Attributes:
        at: the points, (n, n_input).
        kernel: k.
        turn, values: Q (n, n) and L (n,), of the points' own kernel K.
        weights: W, (n, n_process).
        size, ratio: A and t, (n_process,).
    """

    at: AnyArray
    kernel: Kernel
    turn: AnyArray
    values: AnyArray
    weights: AnyArray
    size: AnyArray
    ratio: AnyArray

    def mean(self, x: Float[Array, " n_input"]) -> Array:
        """E[g(x)], (n_process,)."""
        return self._to(x) @ self.weights

    def slope(self, x: Float[Array, " n_input"]) -> Array:
        """d E[g(x)] / dx, (n_process, n_input)."""
        return self.kernel.slope(x, jnp.asarray(self.at), jnp.asarray(self.weights))

    def variance(self, x: Float[Array, " n_input"]) -> Array:
        """Variance of g(x), without the noise, (n_process,)."""
        told = (self._to(x) @ self.turn) ** 2 @ (1.0 / (self.values[:, None] + self.ratio[None]))
        return jnp.asarray(self.size) * jnp.maximum(self.kernel.alone(x) - told, 0.0)

    def _to(self, x: Array) -> Array:
        return self.kernel.between(x[None], jnp.asarray(self.at))[0]


def left_out(processes: Processes) -> tuple[np.ndarray, np.ndarray]:
    """How far each point is from what all others say of it, and the sd that they claim, noise included.

        r_ik = W_ik / V_ik,   sd_ik = sqrt(A_k / V_ik),   V_ik = ((K + t_k)^-1)_ii

    Args:
        processes: of `fit_processes`.

    Returns:
        r and sd, each (n, n_process): r / sd is of mean square one where kernel and sizes are right.

    Errors:
        None.

    Example:
        >>> x = np.linspace(-2.0, 2.0, 40)[:, None]
        >>> y = np.sin(2.0 * x) + 0.01 * np.random.default_rng(0).normal(size=(40, 1))
        >>> off, sd = left_out(fit_processes(x, y))
        >>> bool(0.7 < (off / sd).std() < 1.3)
        True

    Source: Rasmussen and Williams 2006, section 5.4.2.
    """
    inverse = 1.0 / (np.asarray(processes.values)[:, None] + np.asarray(processes.ratio)[None])
    precision = np.asarray(processes.turn) ** 2 @ inverse
    return np.asarray(processes.weights) / precision, np.sqrt(np.asarray(processes.size) / precision)


def fit_processes(x: np.ndarray, y: np.ndarray, *, seed: int = 0, kernel: Kernel | None = None) -> Processes:
    """Learn functions of few points: kernel, sizes and noises by their likelihood, the functions in closed form.

        ln p(y_k) = -n / 2 ln A_k - ln|K + t_k| / 2 + const,   A_k = y_k' (K + t_k)^-1 y_k / n

    The size A_k is where the likelihood of its process is highest. One kernel for all: what labels do to spectra is as
    smooth in one direction of flux as in another, and one decomposition then serves every process.

    Args:
        x: inputs, scaled, (n, n_input).
        y: (n, n_process), each of order one, with mean near zero; the kernel is fitted to the first `LEAD`.
        seed: of the points that it is fitted to, where there are many.
        kernel: where it is known already.

    Returns:
        `Processes`.

    Errors:
        None.

    Example:
        >>> x = np.linspace(-2.0, 2.0, 40)[:, None]
        >>> y = np.sin(2.0 * x) + 0.01 * np.random.default_rng(0).normal(size=(40, 1))
        >>> found = fit_processes(x, y)
        >>> round(float(found.mean(jnp.array([0.5]))[0]), 1), round(float(np.sqrt(found.size * found.ratio)[0]), 2)
        (0.8, 0.01)

    Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, section 5.4; Czekala et al. 2015,
    ApJ 812, 128 (for spectra).
    """
    if kernel is None:
        some = np.random.default_rng(seed).permutation(len(x))[:MOST_FITTED]
        kernel = _fit_kernel(jnp.asarray(x[some]), jnp.asarray(y[some, :LEAD]))
    values, turn = np.linalg.eigh(np.asarray(kernel.between(jnp.asarray(x), jnp.asarray(x))))
    values = np.maximum(values, 0.0) + JITTER * values.mean()
    along = turn.T @ y
    each = values[:, None] + RATIOS[None]  # (n, n_ratio)
    sizes = (along**2).T @ (1.0 / each) / len(x)  # (n_process, n_ratio)
    cost = 0.5 * len(x) * np.log(np.maximum(sizes, 1e-300)) + 0.5 * np.log(each).sum(axis=0)[None]
    best = cost.argmin(axis=1)
    ratio, size = RATIOS[best], np.take_along_axis(sizes, best[:, None], axis=1)[:, 0]
    weights = turn @ (along / (values[:, None] + ratio[None]))
    return Processes(x, kernel, turn, values, weights, size, ratio)


def _fit_kernel(x: Array, y: Array) -> Kernel:
    """The kernel under which the points are likeliest."""
    n, n_input = x.shape
    n_process = y.shape[1]

    def kernel_of(told: Array) -> Kernel:
        reach, line, bend = jnp.exp(told[n_input:-1]).reshape(3, n_input)
        return Kernel(told[:n_input], reach, line, bend, jnp.exp(told[-1]))

    def energy(told: Array) -> Array:
        log_ratios, told = told[:n_process], told[n_process:]
        base = kernel_of(told).between(x, x)

        def one(each: tuple[Array, Array]) -> Array:
            values, log_ratio = each
            root = jnp.linalg.cholesky(base + (JITTER * jnp.trace(base) / n + jnp.exp(log_ratio)) * jnp.eye(n))
            white = jax.scipy.linalg.solve_triangular(root, values, lower=True)
            return 0.5 * n * jnp.log(white @ white) + jnp.log(jnp.diagonal(root)).sum()

        tilt, log_reach = told[: 2 * n_input].reshape(2, n_input)
        usual = ((tilt / USUAL_TILT) ** 2 + (log_reach - USUAL_REACH) ** 2).sum()
        return jax.lax.map(one, (y.T, log_ratios)).sum() + 0.5 * usual

    start = np.concatenate(
        [np.full(n_process, -5.0), np.zeros(n_input), np.full(n_input, USUAL_REACH), np.zeros(n_input),
         np.full(n_input, -3.0), [0.0]]
    )  # fmt: skip
    log_ratio = (float(np.log(RATIOS[0])), float(np.log(RATIOS[-1])))
    bounds = (
        [log_ratio] * n_process + [(-1.5, 1.5)] * n_input + [(-2.0, 6.0)] * n_input
        + [(-12.0, 12.0)] * (2 * n_input + 1)
    )  # fmt: skip
    found = lowest(energy, start, bounds, STEPS)
    return jax.tree.map(np.asarray, kernel_of(jnp.asarray(found[n_process:])))
