"""Cross-calibration of surveys whose pipelines respond to the star's true labels."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Float
from hbcal.distributions.population_stars import Group
from hbcal.programs.crosscal import Design
from hbcal.programs.plated import plated


@pytree
class StructuralDesign:
    """Everything fixed: the globals of `crosscal`, and its stars sorted by the surveys that saw them.

    Attributes:
        common: labels, prior scales and floor terms, as `crosscal` has them; its blocks of stars are not used.
        groups: the stars, one population each.
        centre, scale: where the true labels of a population may lie and how far they may spread, (n_label,).
        reference: true labels at which the trends vanish, (n_label,).
    """

    common: Design
    groups: tuple[Group, ...]
    centre: Float[AnyArray, " n_label"]
    scale: Float[AnyArray, " n_label"]
    reference: Float[AnyArray, " n_label"]


@dataclass(frozen=True)
class StructuralPriors:
    """The numbers a recipe may set: those of `crosscal`; and the sd of the log width of a population."""

    error_scale: float = 0.3
    floor_trend: float = 0.5
    population: float = 0.7


def crosscal_structural(
    design: StructuralDesign, y: tuple[AnyArray, ...] | None = None, *, priors: StructuralPriors = StructuralPriors()
) -> tuple[AnyArray, ...]:
    """Zero points, trends in what is observed and in true labels, error scales and floors of surveys that share stars.

        y_isl = z_il + delta_sl + sum_k beta_slk phi_k(z_i, x_is) + noise,    noise ~ N(0, V_isl),    z_i ~ N(m_g, S_g)
        V_isl = (a_sl e_isl)^2 + (tau_sl exp(sum_m gamma_slm psi_m(x_is)))^2

    with phi linear in the true labels z_i, and g the group of stars that the same surveys saw.

    | site            | axis             | prior                                   | what                             |
    |-----------------|------------------|-----------------------------------------|----------------------------------|
    | error_scale     | n_error          | LogNormal(0, priors.error_scale)        | a, where a survey reports errors |
    | floor           | n_floor          | HalfNormal(common.floor_unit)           | tau, but of anchors              |
    | floor_trend     | n_gamma          | Normal(0, priors.floor_trend)           | gamma, where a floor has terms   |
    | prior_sd        | n_scale          | HalfNormal(common.scale_unit)           | learnt sd of offsets and trends  |
    | coef_<label>    | n_coef           | Normal(0, sd)                           | delta, beta                      |
    | population_mean | n_group, n_label | Normal(centre, scale)                   | m                                |
    | population_sd   | n_group, n_label | LogNormal(log scale, priors.population) | root of the diagonal of S        |
    | corr_<group>    |                  | LKJ(2), where labels are several        | Cholesky factor of correlations  |
    | y_<group>       |                  | PopulationStars                         | z integrated out                 |

    Omit `y` to simulate.

    Args:
        design: what is fixed.
        y: per group the measurements as one vector (`PopulationStars`), label units.
        priors: the numbers of the priors.

    Returns:
        The measurements per group.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from hbcal.structural import structural
        >>> posed = structural(tiny_structural())
        >>> simulated = numpyro.handlers.seed(crosscal_structural, 0)(posed.design)  # no y given
        >>> [each.shape == given.shape for each, given in zip(simulated, posed.y)]
        [True, True, True]
    """
    common, shape = design.common, (len(design.groups), design.centre.shape[0])
    scale = plated("error_scale", "n_error", dist.LogNormal(0.0, priors.error_scale).expand([common.n_error]))
    floor = plated("floor", "n_floor", dist.HalfNormal(common.floor_unit))
    gamma = plated("floor_trend", "n_gamma", dist.Normal(0.0, priors.floor_trend).expand([common.n_gamma]))
    prior_sd = plated("prior_sd", "n_scale", dist.HalfNormal(common.scale_unit))
    coef = tuple(
        numpyro.sample(f"coef_{label.name}", dist.Normal(0.0, label.prior_sd(prior_sd)).to_event(1))
        for label in common.labels
    )
    centre, width = (jnp.broadcast_to(jnp.asarray(x), shape) for x in (design.centre, design.scale))
    with numpyro.plate("n_group", shape[0], dim=-2), numpyro.plate("n_label", shape[1], dim=-1):
        mean = numpyro.sample("population_mean", dist.Normal(centre, width))
        sd = numpyro.sample("population_sd", dist.LogNormal(jnp.log(width), priors.population))

    trend = jnp.asarray(common.floor_place) @ gamma
    measured = []
    for i, group in enumerate(design.groups):
        one = jnp.ones((1, 1))
        corr = one if shape[1] == 1 else numpyro.sample(f"corr_{group.name}", dist.LKJCholesky(shape[1], 2.0))
        model = group.stars(
            coef, group.variance(scale, floor, trend), mean[i], sd[i][:, None] * corr, jnp.asarray(design.reference)
        )
        measured.append(numpyro.sample(f"y_{group.name}", model, obs=None if y is None else y[i]))
    return tuple(measured)
