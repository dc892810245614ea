"""Draws of a mixture, whatever its components are called: which of them are one population, who belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Float, Int
from hbcal.numerics.partitions import distances, representative
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import Stars, lower, unblocked
from hbcal.population_design import OCCUPIED
from hbcal.programs.dp_mixture import MixturePriors, components

MOST = 400  # draws that everything after the sampling is computed from


@dataclass(frozen=True)
class Components:
    """Draws of all components, the background last, scaled.

    Attributes:
        log_weight: (n_draw, n_comp + 1).
        mean: (n_draw, n_comp + 1, n_dim).
        covariance: (n_draw, n_comp + 1, n_dim, n_dim).
        calibration: u of the calibration that the stars share, (n_draw, n_shift); n_shift is 0 without one.
    """

    log_weight: Float[np.ndarray, "n_draw n_comp"]
    mean: Float[np.ndarray, "n_draw n_comp n_dim"]
    covariance: Float[np.ndarray, "n_draw n_comp n_dim n_dim"]
    calibration: Float[np.ndarray, "n_draw n_shift"]


def thinned(sites: dict[str, np.ndarray], priors: MixturePriors) -> tuple[Components, np.ndarray]:
    """Some draws of all chains, evenly spread, and their partitions.

    Args:
        sites: draws of the program, (chain, draw, ...), with ``component`` of each star.
        priors: of the program.

    Returns:
        `Components`, and the component of each star, (n_draw, n_star).

    Errors:
        None.

    Example:
        >>> half, one = np.full((1, 2), 0.5), np.ones((1, 2, 2, 1))
        >>> sites = {"background": half, "stick": half[..., None], "mean": one, "sd": one, "corr": one[..., None]}
        >>> sites |= {"component": np.zeros((1, 2, 5), int)}
        >>> found, which = thinned(sites, MixturePriors())
        >>> found.mean.shape, which.shape
        ((2, 3, 1), (2, 5))
    """
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in sites.items()}
    n = len(flat["background"])
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST)).astype(int))
    draws = {name: jnp.asarray(flat[name][rows]) for name in ("background", "stick", "mean", "sd", "corr")}
    log_weight, mean, root = jax.vmap(lambda each: components(each, priors))(draws)
    covariance = root @ jnp.swapaxes(root, -1, -2)
    calibration = flat["calibration"][rows] if "calibration" in flat else np.zeros((len(rows), 0))
    found = Components(np.asarray(log_weight), np.asarray(mean), np.asarray(covariance), calibration)
    return found, flat["component"][rows]


def populations_of(stars: Stars, n_star: int, found: Components, which: np.ndarray) -> tuple[np.ndarray, ...]:
    """A partition that stands for all draws, and which component of each draw belongs to which of its clusters.

    A component goes to the cluster that most of its stars are in; two components may share one, and a cluster may be
    without a component in a draw that does not know it.

    Args:
        stars: that were fitted.
        n_star: how many.
        found, which: of `thinned`.

    Returns:
        Population of each star, (n_star,): 1, 2 ... by decreasing size, 0 for clusters of less than 1% of the stars;
        distance of each draw from that partition, bits; population of each component, (n_draw, n_comp + 1), the
        background being 0; mean and sd of `membership` of the fitted stars.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> found, which = run.components, run.tree["components"]["component_of"].to_numpy().astype(int)
        >>> population, away, of, *_ = populations_of(run.packed(tiny_abundances()), 120, found, which)
        >>> int(population.max()), of.shape[1]
        (2, 3)
    """
    partition, away = representative(which)
    found_of = lambda population: _belonging(stars, population, found, n_star)  # noqa: E731
    population = numbered(partition)
    of = found_of(population)
    mean, spread = membership(stars, n_star, found, of)
    likely = mean.argmax(1)
    nearer = distances(likely, which)
    if nearer.mean() < away.mean():
        population, away = numbered(likely), nearer
        of = found_of(population)
        mean, spread = membership(stars, n_star, found, of)
    return population, away, of, mean, spread


def numbered(partition: Int[np.ndarray, " n_star"]) -> np.ndarray:
    """Clusters by decreasing size, from 1; those of less than 1% of the stars become 0.

    Args:
        partition: integers from 0.

    Returns:
        (n_star,).

    Errors:
        None.

    Example:
        >>> numbered(np.array([5, 5, 2, 2, 2])).tolist()
        [2, 2, 1, 1, 1]
    """
    n = np.bincount(partition)
    order = np.argsort(-n, kind="stable")
    new = np.zeros(len(n), int)
    large = [k for k in order if n[k] >= max(OCCUPIED * len(partition), 1)]
    new[large] = np.arange(1, len(large) + 1)
    return new[partition]


def _belonging(stars: Stars, population: np.ndarray, found: Components, n_star: int) -> np.ndarray:
    """Population of each component of each draw: the one that most of its stars are in."""
    here = jax.nn.one_hot(population, int(population.max()) + 1)
    one = lambda carry, joint, _: (carry, unblocked(jax.nn.softmax(joint, axis=1), n_star).T @ here)  # noqa: E731
    of = np.asarray(_over_draws(stars, found, one, jnp.zeros(len(found.mean)), 0.0)[1]).argmax(2)
    of[:, -1] = 0
    return of


def membership(
    stars: Stars, n_star: int, found: Components, of: Int[np.ndarray, "n_draw n_comp"]
) -> tuple[Float[np.ndarray, "n_star n_pop"], Float[np.ndarray, "n_star n_pop"]]:
    """Probability of each star to belong to each population, averaged over the draws, and its spread between them.

    Args:
        stars: any.
        n_star: how many.
        found: of `thinned`.
        of: population of each component, of `populations_of`.

    Returns:
        Mean and sd, (n_star, n_population + 1); the first column is no population.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> mean, sd = membership(run.packed(tiny_abundances()), 120, run.components, run.population_of)
        >>> mean.shape, bool(abs(mean.sum(1) - 1.0).max() < 1e-9)
        ((120, 3), True)
    """
    n_population = int(of.max()) + 1

    def one(total: Array, joint: Array, of: Array) -> tuple[Array, None]:
        each = unblocked(jax.nn.softmax(joint, axis=1), n_star) @ jax.nn.one_hot(of, n_population)
        return total + jnp.stack([each, each**2]), None

    total = _over_draws(stars, found, one, jnp.asarray(of), jnp.zeros((2, n_star, n_population)))[0]
    first, second = np.asarray(total) / len(found.mean)
    return first, np.sqrt(np.maximum(second - first**2, 0.0))


def log_predictive(stars: Stars, n_star: int, found: Components) -> np.ndarray:
    """ln p(x) of each star under the mean of all draws.

        ln 1/S sum_s p(x | draw s)

    Args:
        stars: any, not fitted.
        n_star: how many.
        found: of `thinned`.

    Returns:
        (n_star,), per scaled unit.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> log_predictive(run.packed(tiny_abundances()), 120, run.components).shape
        (120,)
    """
    one = lambda total, joint, _: (jnp.logaddexp(total, jax.nn.logsumexp(joint, axis=1)), None)  # noqa: E731
    n_draw, start = len(found.mean), jnp.full(jnp.shape(stars.real), -jnp.inf)
    total = _over_draws(stars, found, one, jnp.zeros(n_draw), start)[0]
    return np.asarray(unblocked(total, n_star)) - np.log(n_draw)


def log_each(stars: Stars, n_star: int, found: Components) -> np.ndarray:
    """ln p(x) of each star in each draw.

    Args:
        stars: any.
        n_star: how many.
        found: of `thinned`.

    Returns:
        (n_draw, n_star), per scaled unit.

    Errors:
        None.

    Example:
        >>> run = tiny_population_run()
        >>> log_each(run.packed(tiny_abundances()), 120, run.components).shape
        (400, 120)
    """
    one = lambda nothing, joint, _: (nothing, unblocked(jax.nn.logsumexp(joint, axis=1), n_star))  # noqa: E731
    return np.asarray(_over_draws(stars, found, one, jnp.zeros(len(found.mean)), 0.0)[1])


def _over_draws(stars: Stars, found: Components, f: Any, more: Array, start: Any) -> Any:
    """Fold f(carry, `log_joint`, more_s) over the draws: the last carry, and what each gave.

    A loop rather than a scan: the densities, whose factors are unrolled, are compiled once for all that is folded.
    """
    draws = [jnp.asarray(each) for each in (found.calibration, found.log_weight, found.mean, found.covariance)]
    step, carry, each = jax.jit(f), start, []
    for s in range(len(found.mean)):
        carry, one = step(carry, _joint(stars, *(draw[s] for draw in draws)), more[s])
        each.append(one)
    return carry, None if each[0] is None else jnp.stack(each)


@jax.jit
def _joint(stars: Stars, calibration: Array, log_weight: Array, mean: Array, covariance: Array) -> Array:
    return log_joint(stars.moved(calibration), log_weight, mean, lower(covariance))


def moments(found: Components, of: Int[np.ndarray, "n_draw n_comp"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, mean and covariance of each population in each draw, its components taken together.

    Args:
        found: of `thinned`.
        of: population of each component.

    Returns:
        (n_draw, n_population), (n_draw, n_population, n_dim), (n_draw, n_population, n_dim, n_dim), scaled; mean and
        covariance are NaN where a draw has no component of that population.

    Errors:
        None.

    Example:
        >>> mean, none = np.array([[[0.0], [3.0], [9.0]]]), np.zeros((1, 0))
        >>> one = Components(np.log([[0.5, 0.25, 0.25]]), mean, np.ones((1, 3, 1, 1)), none)
        >>> [x.ravel().round(2).tolist() for x in moments(one, np.array([[1, 1, 0]]))]
        [[0.75], [1.0], [3.0]]
    """
    n_population = int(of.max())
    here = np.equal(of[:, :, None], np.arange(1, n_population + 1)) * np.exp(found.log_weight)[:, :, None]
    weight = here.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = here / weight[:, None]
    mean = np.einsum("skj,ski->sji", share, found.mean)
    square = found.covariance + found.mean[..., :, None] * found.mean[..., None, :]
    return weight, mean, np.einsum("skj,skab->sjab", share, square) - mean[..., :, None] * mean[..., None, :]
