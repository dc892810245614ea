"""Surveys that depend on others: what they report, given what the voting surveys say."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._typing import AnyArray
from hbcal.distributions.dependents import Dependents, components
from hbcal.programs.plated import plated


@dataclass(frozen=True)
class DependentPriors:
    """The numbers a recipe may set: those of `crosscal_robust`."""

    error_scale: float = 0.3
    outlier_rate: float = 0.03


def crosscal_dependents(
    design: Dependents, y: AnyArray | None = None, *, priors: DependentPriors = DependentPriors()
) -> AnyArray:
    """What a survey reports that compiles others, or reduces their spectra again, given what the voters say.

        own    y = z + delta + beta . phi + noise,                         noise ~ N(0, (a e)^2 + tau^2)
        mixed  y = (1 - lambda) (z + delta + beta . phi) + lambda m + mu + noise,    noise ~ N(0, sigma^2)
        copied y = y_p + delta_p + noise,                                  noise ~ N(0, tau_p^2)

    `own` where no parent p measured the star, else `mixed`, with m the mean of what they report, or copied from one
    of them. z ~ N(z, z_var) is the voters' and learns nothing from here. Own and mixed measurements may be outliers.

    | site         | axis    | prior                       | what                                          |
    |--------------|---------|-----------------------------|-----------------------------------------------|
    | coef         | n_pair, n_term | Normal(0, prior_sd)  | delta, beta                                   |
    | shift        | n_pair  | Normal(0, prior_sd of delta)| mu                                            |
    | share        | n_pair  | Uniform(0, 1)               | lambda: how much of the parents is in it      |
    | error_scale  | n_error | LogNormal(0, priors.error_scale) | a                                        |
    | floor        | n_pair  | HalfNormal(unit)            | tau                                           |
    | mixed_floor  | n_pair  | HalfNormal(unit)            | sigma                                         |
    | outlier_rate | n_pair  | Beta(2, 2 / priors.outlier_rate - 2) | share of outliers                    |
    | copy_odds    | n_copy  | LogNormal(-1, 1.5)          | odds of copying from a parent                 |
    | copy_offset  | n_copy  | Normal(0, prior_sd of delta)| delta_p                                       |
    | copy_width   | n_copy  | HalfNormal(0.5)             | tau_p in units of 0.3 sigma                   |
    | y            |         | see above                   |                                               |

    Args:
        design: what is fixed.
        y: measurements, (n,), label units.
        priors: the numbers of the priors.

    Returns:
        The measurements.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from hbcal.dependents import second_stage
        >>> second = second_stage(*tiny_network())
        >>> simulated = numpyro.handlers.seed(crosscal_dependents, 0)(second.design)  # no y given
        >>> simulated.shape == second.y.shape
        True
    """
    n_pair, n_term = design.prior_sd.shape
    n_copy, first = design.copy_of.shape[2], design.prior_sd[:, 0]
    copied = jnp.einsum("p,pjc->c", first, design.copy_of)
    log_normal = dist.LogNormal(0.0, priors.error_scale).expand([design.error_of.shape[1]])
    two = jnp.full(n_pair, 2.0)
    few = dist.Beta(two, two / priors.outlier_rate - 2.0)
    with numpyro.plate("n_pair", n_pair, dim=-2), numpyro.plate("n_term", n_term, dim=-1):
        coef = numpyro.sample("coef", dist.Normal(0.0, design.prior_sd))
    drawn = {
        "coef": coef,
        "shift": plated("shift", "n_pair_", dist.Normal(0.0, first)),
        "share": plated("share", "n_pair_", dist.Uniform(0.0, 1.0).expand([n_pair])),
        "error_scale": plated("error_scale", "n_error", log_normal),
        "floor": plated("floor", "n_pair_", dist.HalfNormal(design.unit)),
        "mixed_floor": plated("mixed_floor", "n_pair_", dist.HalfNormal(design.unit)),
        "outlier_rate": plated("outlier_rate", "n_pair_", few),
        "copy_odds": plated("copy_odds", "n_copy", dist.LogNormal(-1.0, 1.5).expand([n_copy])),
        "copy_offset": plated("copy_offset", "n_copy", dist.Normal(0.0, copied)),
        "copy_width": plated("copy_width", "n_copy", dist.HalfNormal(jnp.full(n_copy, 0.5))),
    }
    weight, mean, sd = components(design, drawn)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=weight), dist.Normal(mean, sd))
    return numpyro.sample("y_dependents", mixture.to_event(1), obs=y)
