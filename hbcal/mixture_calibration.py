"""Moves of a mixture whose stars share an uncertain calibration: it wanders, and the components go with it.

A zero point moves all stars at once, and a chain that moved it alone would leave every component behind. So a step

    u' = STAY u + sqrt(1 - STAY^2) N(0, 1),   mu_k' = mu_k + T (u' - u),   T = mean shift of the stars

takes all means along by what the stars move by on the average; what a trend does beyond that, the sweep that follows
mends. The two kinds of moves differ in whether the step is taken: joint, by Metropolis' rule, so that populations and
calibration are one posterior; cut, always, so that the calibration keeps to its own posterior and the populations
follow it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hbcal._typing import Array
from hbcal.mixture_moves import PRIORS, Sites, scales, sweep
from hbcal.numerics.star_mixture import log_likelihood
from hbcal.numerics.stars import lower
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, components

STAY = 0.9


def cut_sweep(
    key: Array, sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors = PRIORS
) -> dict[str, Array]:
    """One step of the calibration along its own posterior, and one sweep of the mixture given it.

    Exact as far as the sweeps follow the calibration, which they do the better the more of them stand between draws.

    Args:
        key: of its draws.
        sites: where the chain is, of `hbcal.programs.dp_mixture_calibrated`.
        design, y, priors: of the program.

    Returns:
        Where the chain is next.

    Errors:
        None.

    Example:
        >>> cut_sweep.__name__
        'cut_sweep'
    """
    key_step, key_sweep = jax.random.split(key)
    return _swept(key_sweep, _step(key_step, sites, design), design, y, priors)


def joint_sweep(
    key: Array, sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors = PRIORS
) -> dict[str, Array]:
    """The same, the step taken or not by Metropolis' rule: leaves the posterior of the program as it is.

    Args:
        key: of its draws.
        sites: where the chain is, of `hbcal.programs.dp_mixture_calibrated`.
        design, y, priors: of the program.

    Returns:
        Where the chain is next.

    Errors:
        None.

    Example:
        >>> joint_sweep.__name__
        'joint_sweep'
    """

    def log_target(sites: Sites) -> Array:
        log_weight, mean, root = components(sites, priors)
        stars = design.stars.with_value(y).moved(sites["calibration"])
        fit = log_likelihood(stars, log_weight, mean, lower(root @ jnp.swapaxes(root, 1, 2)))
        return fit - 0.5 * (sites["mean"] ** 2).sum() / priors.mean**2  # the step leaves the prior of u as it is

    key_step, key_take, key_sweep = jax.random.split(key, 3)
    new = _step(key_step, sites, design)
    take = jnp.log(jax.random.uniform(key_take)) < log_target(new) - log_target(sites)
    sites = {name: jnp.where(take, new[name], sites[name]) for name in new}
    return _swept(key_sweep, sites, design, y, priors)


def _step(key: Array, sites: Sites, design: MixtureDesign) -> dict[str, Array]:
    u, n_seen = sites["calibration"], jnp.asarray(design.stars.seen).sum((0, 2))
    new = STAY * u + (1.0 - STAY**2) ** 0.5 * jax.random.normal(key, u.shape)
    along = jnp.asarray(design.stars.shift).sum((0, 3)) / jnp.maximum(n_seen, 1.0)[:, None]
    return {**sites, "calibration": new, "mean": sites["mean"] + (along @ (new - u))[None]}


def _swept(key: Array, sites: Sites, design: MixtureDesign, y: Array, priors: MixturePriors) -> dict[str, Array]:
    u = sites["calibration"]
    alone = {name: value for name, value in sites.items() if name != "calibration"}
    on_scale = jnp.asarray(design.stars.with_value(y).moved(u).value)
    return {**sweep(key, alone, design, on_scale, priors=priors), "calibration": u}


def calibrated_scales(
    sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors = PRIORS
) -> dict[str, Array]:
    """The steps of `hbcal.mixture_moves.scales`, and of the calibration: what it may wander by while the means stay.

    Args:
        sites: any, near where the chain is.
        design, y, priors: of the program.

    Returns:
        Standard deviations per site.

    Errors:
        None.

    Example:
        >>> calibrated_scales.__name__
        'calibrated_scales'
    """
    told = (jnp.asarray(design.stars.shift) ** 2).sum((0, 1, 3)) / priors.sd[0] ** 2
    return {**scales(sites, design, y, priors=priors), "calibration": (1.0 + told) ** -0.5}
