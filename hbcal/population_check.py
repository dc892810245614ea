"""Whether a mixture fits its stars: simulations of its prior and its posterior, and stars left out one by one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, trace

from hbcal._typing import Array, Float
from hbcal.distributions.star_mixture import StarMixture
from hbcal.infer.task import Task
from hbcal.numerics.pareto import smooth_weights
from hbcal.numerics.stars import Stars, unblocked
from hbcal.population_draws import Components

N_SIMULATED = 200
STATISTICS = ("spread", "tails")  # 1.4826 median |x - median|, and the share of stars beyond 3 of those
TRUSTED = 0.7  # k-hat


def of_prior(task: Task, n_star: int) -> Float[np.ndarray, "n_simulated n_statistic n_dim"]:
    """Statistics of stars simulated from the prior, with the errors and the missing elements there are.

    Args:
        task: of `hbcal.population_design.pose`.
        n_star: how many stars.

    Returns:
        (n_simulated, n_statistic, n_dim), scaled; see `STATISTICS`.

    Errors:
        None.

    Example:
        >>> from hbcal.population_design import pose
        >>> of_prior(pose(tiny_abundances(), tiny_populations(), 1).task, 120).shape
        (200, 2, 2)
    """
    design = task.args[0]

    def one(key: Array) -> Array:
        made = trace(seed(task.program, key)).get_trace(design, **task.kwargs)
        return statistics(made["y"]["value"], design.stars, n_star)

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(_keys()))


def of_posterior(found: Components, stars: Stars, n_star: int) -> Float[np.ndarray, "n_simulated n_statistic n_dim"]:
    """The same of stars simulated from draws of the posterior.

    Args:
        found: of `hbcal.population_draws.thinned`.
        stars: that were fitted.
        n_star: how many.

    Returns:
        (n_simulated, n_statistic, n_dim), scaled.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> of_posterior(run.components, run.packed(tiny_abundances()), 120).shape
        (200, 2, 2)
    """
    rows = np.linspace(0, len(found.mean) - 1, N_SIMULATED).astype(int)
    root = np.linalg.cholesky(found.covariance[rows])

    def one(item: Any) -> Array:
        key, u, log_weight, mean, root = item
        return statistics(StarMixture(stars, log_weight, mean, root, u).sample(key), stars, n_star)

    each = (_keys(), found.calibration[rows], found.log_weight[rows], found.mean[rows], root)
    return np.asarray(jax.jit(lambda each: jax.lax.map(one, each))(jax.tree.map(jnp.asarray, each)))


def statistics(value: Array, stars: Stars, n_star: int) -> Array:
    """What simulated stars and real ones are compared by.

    Args:
        value: as `Stars` has it.
        stars: which say what was measured.
        n_star: how many.

    Returns:
        (n_statistic, n_dim), see `STATISTICS`; NaN for an element that no star has.

    Errors:
        None.

    Example:
        >>> stars = tiny_mixture().stars
        >>> statistics(stars.value, stars, 120).shape
        (2, 2)
    """
    x = jnp.where(unblocked(stars.seen, n_star) > 0, unblocked(value, n_star), jnp.nan)
    off = jnp.abs(x - jnp.nanmedian(x, axis=0)[None])
    spread = 1.4826 * jnp.nanmedian(off, axis=0)
    beyond = jnp.nanmean(jnp.where(jnp.isnan(off), jnp.nan, off > 3.0 * spread[None]), axis=0)
    return jnp.stack([spread, beyond])


def shares_below(simulated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Which share of the simulations lies below the stars, ties counting a half: near 0 or 1 where they do not fit.

    Args:
        simulated: (n_simulated, ...).
        real: (...).

    Returns:
        (...).

    Errors:
        None.

    Example:
        >>> float(shares_below(np.array([1.0, 2.0, 3.0, 4.0]), np.array(2.0)))
        0.375
    """
    return (simulated < real).mean(0) + 0.5 * np.equal(simulated, real).mean(0)


def leave_one_out(log_each: Float[np.ndarray, "n_draw n_star"]) -> tuple[np.ndarray, np.ndarray]:
    """ln p of each star given all others, by Pareto-smoothed importance sampling.

        ln p(x_i | x_-i) = ln sum_s v_is p(x_i | draw s),   v_is ~ 1 / p(x_i | draw s), smoothed, adding up to one

    Args:
        log_each: ln p(x_i | draw s).

    Returns:
        (n_star,), and k-hat, (n_star,): beyond 0.7 the number is not to be trusted.

    Errors:
        None.

    Example:
        >>> value, k_hat = leave_one_out(np.zeros((100, 3)))
        >>> value.round(6).tolist(), k_hat.shape
        ([0.0, 0.0, 0.0], (3,))

    Source: Vehtari, Gelman and Gabry 2017, Statistics and Computing 27, 1413.
    """

    def one(each: Array) -> tuple[Array, Array]:
        share, k_hat = smooth_weights(-each)
        return jax.nn.logsumexp(each, b=share), k_hat

    value, k_hat = jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=512))(jnp.asarray(log_each).T)
    return np.asarray(value), np.asarray(k_hat)


def _keys() -> Array:
    return jax.random.split(jax.random.PRNGKey(0), N_SIMULATED)
