"""Chemical populations of stars whose calibration is uncertain, and the same for all of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._typing import AnyArray
from hbcal.distributions.star_mixture import StarMixture
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, components, mixture_sites

PRIORS = MixturePriors()


def dp_mixture_calibrated(
    design: MixtureDesign, y: AnyArray | None = None, *, priors: MixturePriors = PRIORS
) -> AnyArray:
    """The mixture of `hbcal.programs.dp_mixture`, of values that a calibration put on a common scale.

        x_i + sum_j shift_ij u_j ~ (1 - b) sum_k w_k N(mu_k, Sigma_k + S_i) + b N(0, background_sd^2 I + S_i)

    | site        | axis    | prior        | what                                                               |
    |-------------|---------|--------------|--------------------------------------------------------------------|
    | calibration | n_shift | Normal(0, 1) | u, where the calibration is within its posterior; shared by stars  |
    | ...         |         |              | the sites of `dp_mixture`                                          |

    Sampled as it is, the stars' populations have a say in the calibration. `hbcal.mixture_calibration` has moves that
    do so, and moves that cut it: then u keeps to its prior whatever the stars look like.

    Args:
        design: what is fixed; its stars have a shift.
        y: values as `Stars` has them, (n_block, n_dim, n_lane), scaled, the calibration at its mean.
        priors: the numbers of the priors.

    Returns:
        The values.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from dataclasses import replace
        >>> design, lanes = tiny_mixture(), (1, 2, 1, 256)
        >>> design = replace(design, stars=replace(design.stars, shift=0.1 * jnp.ones(lanes)))
        >>> model = numpyro.handlers.seed(dp_mixture_calibrated, 0)
        >>> numpyro.handlers.trace(model).get_trace(design)["calibration"]["value"].shape
        (1,)

    Source: for the cut, Plummer 2015, Statistics and Computing 25, 37.
    """
    n_shift = design.stars.shift.shape[2]
    calibration = numpyro.sample("calibration", dist.Normal(jnp.zeros(n_shift), 1.0).to_event(1))
    sites = mixture_sites(design, priors)
    mixture = StarMixture(design.stars, *components(sites, priors), calibration)
    return numpyro.sample("y", mixture, obs=y)
