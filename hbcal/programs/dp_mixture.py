"""Chemical populations: a Dirichlet-process mixture of stars whose errors are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array
from hbcal.distributions.star_mixture import StarMixture
from hbcal.numerics.stars import Stars
from hbcal.numerics.sticks import log_weights
from hbcal.programs.plated import plated


@pytree
class MixtureDesign:
    """Everything fixed.

    Attributes:
        stars: errors and what was measured, in units of the spread of each element among the stars.
        points, pairs: where the density, and of which stars the co-clustering, is followed; no part of the model.
        n_star, n_dim: stars and elements.
        n_comp: components kept of endless many.
    """

    stars: Stars
    points: Stars
    pairs: AnyArray
    n_star: int = static()
    n_dim: int = static()
    n_comp: int = static()


@dataclass(frozen=True)
class MixturePriors:
    """The numbers a recipe may set. Unit of what has one: the spread of an element among the stars.

    Attributes:
        concentration: shape and rate of its Gamma prior; with 2 and 4, 1 to 6 populations hold 1% of the stars (90%).
        mean: sd of component means about the middle of the stars.
        sd: median of a component's sd, and the sd of its logarithm.
        correlation: of the LKJ prior; 1 is flat.
        background: mean share of stars that belong to no population.
        background_sd: how broad the background is.
    """

    concentration: tuple[float, float] = (2.0, 4.0)
    mean: float = 1.5
    sd: tuple[float, float] = (0.4, 0.7)
    correlation: float = 1.0
    background: float = 0.01
    background_sd: float = 4.0


def dp_mixture(
    design: MixtureDesign, y: AnyArray | None = None, *, priors: MixturePriors = MixturePriors()
) -> AnyArray:
    """Which populations there are, how many, and how large, from abundances with errors.

        x_i ~ (1 - b) sum_k w_k N(mu_k, Sigma_k + S_i) + b N(0, background_sd^2 I + S_i),   of what was measured of i
        w_k = v_k prod_{l<k} (1 - v_l),   Sigma_k = diag(sd_k) R_k diag(sd_k)

    | site          | axis    | prior                                | what                                    |
    |---------------|---------|--------------------------------------|-----------------------------------------|
    | concentration |         | Gamma(*priors.concentration)         | how readily a new population appears    |
    | background    |         | Beta(1, 1 / priors.background - 1)   | b, the share of stars of no population  |
    | stick         | n_stick | Beta(1, concentration)               | v, what breaks off the rest of the stick |
    | mean          | n_comp  | Normal(0, priors.mean)               | mu                                      |
    | sd            | n_comp  | LogNormal(ln priors.sd, priors.sd)   | widths per element                      |
    | corr          | n_comp  | LKJCholesky(priors.correlation)      | R, its lower triangular root            |
    | y             |         | StarMixture                          | components of stars summed over         |

    Omit `y` to simulate.

    Args:
        design: what is fixed.
        y: values as `Stars` has them, (n_block, n_dim, n_lane), scaled.
        priors: the numbers of the priors.

    Returns:
        The values.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> simulated = numpyro.handlers.seed(dp_mixture, 0)(tiny_mixture())  # no y given
        >>> simulated.shape == tiny_mixture().stars.value.shape
        True
    """
    sites = mixture_sites(design, priors)
    return numpyro.sample("y", StarMixture(design.stars, *components(sites, priors)), obs=y)


def mixture_sites(design: MixtureDesign, priors: MixturePriors) -> dict[str, Any]:
    """The sites of `dp_mixture` but for `y`, sampled.

    Args:
        design, priors: of the program.

    Returns:
        Site -> value.

    Errors:
        None.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     sorted(mixture_sites(tiny_mixture(), MixturePriors()))
        ['background', 'concentration', 'corr', 'mean', 'sd', 'stick']
    """
    d, k = design.n_dim, design.n_comp
    concentration = numpyro.sample("concentration", dist.Gamma(*priors.concentration))
    background = numpyro.sample("background", dist.Beta(1.0, 1.0 / priors.background - 1.0))
    stick = plated("stick", "n_stick", dist.Beta(jnp.ones(k - 1), concentration))
    mean = plated("mean", "n_comp", dist.Normal(0.0, priors.mean).expand([k, d]).to_event(1))
    width = dist.LogNormal(jnp.log(priors.sd[0]), priors.sd[1])
    sd = plated("sd", "n_comp", width.expand([k, d]).to_event(1))
    corr = plated("corr", "n_comp", dist.LKJCholesky(d, priors.correlation).expand([k]))
    return {
        "concentration": concentration, "background": background, "stick": stick, "mean": mean, "sd": sd, "corr": corr,
    }  # fmt: skip


def components(sites: Mapping[str, Any], priors: MixturePriors = MixturePriors()) -> tuple[Array, Array, Array]:
    """Weights, means and roots of covariances of all components, the background last.

    Args:
        sites: one draw: background, stick, mean, sd and corr.
        priors: which say how broad the background is.

    Returns:
        ln w (n_comp + 1,), means (n_comp + 1, n_dim) and lower triangular roots (n_comp + 1, n_dim, n_dim), scaled.

    Errors:
        None.

    Example:
        >>> one, half = jnp.ones((2, 1)), jnp.array([0.5])
        >>> sites = {"background": 0.5, "stick": half, "mean": one, "sd": one, "corr": one[..., None]}
        >>> log_weight, mean, root = components(sites)
        >>> jnp.exp(log_weight).tolist(), root[:, 0, 0].tolist()
        ([0.25, 0.25, 0.5], [1.0, 1.0, 4.0])
    """
    background, mean = jnp.asarray(sites["background"]), jnp.asarray(sites["mean"])
    d = mean.shape[-1]
    log_weight = jnp.append(jnp.log1p(-background) + log_weights(sites["stick"]), jnp.log(background))
    root = jnp.asarray(sites["sd"])[:, :, None] * sites["corr"]
    return (
        log_weight, jnp.concatenate([mean, jnp.zeros((1, d))]),
        jnp.concatenate([root, priors.background_sd * jnp.eye(d)[None]]),
    )  # fmt: skip
