"""Cross-calibration of surveys whose catalogues contain blunders."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray
from hbcal.distributions.outlier_stars import OutlierStars, Stratum
from hbcal.programs.crosscal import Design
from hbcal.programs.plated import plated


@pytree
class RobustDesign:
    """Everything fixed: the globals of `crosscal`, and its stars sorted by how many measurements they have.

    Attributes:
        common: labels, prior scales and floor terms, as `crosscal` has them; its blocks of stars are not used.
        strata: per label, its stars.
        n_rate: how many outlier rates there are.
    """

    common: Design
    strata: tuple[tuple[Stratum, ...], ...]
    n_rate: int = static()


@dataclass(frozen=True)
class RobustPriors:
    """The numbers a recipe may set: those of `crosscal`, and the mean share of outliers."""

    error_scale: float = 0.3
    floor_trend: float = 0.5
    outlier_rate: float = 0.03


def crosscal_robust(
    design: RobustDesign, y: tuple[AnyArray, ...] | None = None, *, priors: RobustPriors = RobustPriors()
) -> tuple[AnyArray, ...]:
    """Zero points, trends, error scales and floors of surveys that share stars, whatever a few measurements say.

        y_isl = z_il + delta_sl + sum_k beta_slk phi_k(x_is) + noise,    z_il flat
        noise ~ N(0, V_isl), or N(0, 100 V_isl) for an outlier
        V_isl = (a_sl e_isl)^2 + (tau_sl exp(sum_m gamma_slm psi_m(x_is)))^2

    Per star and label no measurement, one, or two of three or more may be outliers; which is summed over.

    | site          | axis    | prior                              | what                                            |
    |---------------|---------|------------------------------------|-------------------------------------------------|
    | error_scale   | n_error | LogNormal(0, priors.error_scale)   | a, where a survey reports errors                |
    | floor         | n_floor | HalfNormal(common.floor_unit)      | tau, where a survey is not an anchor            |
    | floor_trend   | n_gamma | Normal(0, priors.floor_trend)      | gamma, where a floor has that term              |
    | prior_sd      | n_scale | HalfNormal(common.scale_unit)      | hierarchical sd of offsets and trends           |
    | outlier_rate  | n_rate  | Beta(2, 2 / priors.outlier_rate - 2) | share of outliers of a survey, one label        |
    | coef_<label>  | n_coef  | Normal(0, sd)                      | delta, beta                                     |
    | y_<label>     |         | OutlierStars                       | z integrated out, outliers summed over          |

    Omit `y` to simulate: true values at zero.

    Args:
        design: what is fixed.
        y: per label the measurements as one vector (`OutlierStars`), label unit.
        priors: the numbers of the priors.

    Returns:
        The measurements per label.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from hbcal.strata import robust
        >>> posed = robust(tiny_prepared())
        >>> simulated = numpyro.handlers.seed(crosscal_robust, 0)(posed.design)  # no y given
        >>> [each.shape == given.shape for each, given in zip(simulated, posed.y)]
        [True]
    """
    common = design.common
    scale = plated("error_scale", "n_error", dist.LogNormal(0.0, priors.error_scale).expand([common.n_error]))
    floor = plated("floor", "n_floor", dist.HalfNormal(common.floor_unit))
    gamma = plated("floor_trend", "n_gamma", dist.Normal(0.0, priors.floor_trend).expand([common.n_gamma]))
    prior_sd = plated("prior_sd", "n_scale", dist.HalfNormal(common.scale_unit))
    few = dist.Beta(jnp.full(design.n_rate, 2.0), jnp.full(design.n_rate, 2.0 / priors.outlier_rate - 2.0))
    rate = plated("outlier_rate", "n_rate", few)

    measured = []
    for i, (label, strata) in enumerate(zip(common.labels, design.strata, strict=True)):
        coef = numpyro.sample(f"coef_{label.name}", dist.Normal(0.0, label.prior_sd(prior_sd)).to_event(1))
        model = outlier_stars(common, strata, coef, scale, floor, gamma, rate)
        measured.append(numpyro.sample(f"y_{label.name}", model, obs=None if y is None else y[i]))
    return tuple(measured)


def outlier_stars(
    common: Design,
    strata: tuple[Stratum, ...],
    coef: AnyArray,
    scale: AnyArray,
    floor: AnyArray,
    gamma: AnyArray,
    rate: AnyArray,
) -> OutlierStars:
    """The stars of one label, given one draw of everything else.

    Args:
        common, strata: of the design.
        coef: zero points and trends of the label, label unit.
        scale, floor, gamma, rate: error scales, floors (label unit), their log-linear terms, outlier rates.

    Returns:
        `OutlierStars`.

    Errors:
        None.

    Example:
        >>> from hbcal.strata import robust
        >>> posed, two = robust(tiny_prepared()), jnp.ones(2)
        >>> design = posed.design
        >>> stars = outlier_stars(design.common, design.strata[0], jnp.zeros(6), two, two, jnp.zeros(0), 0.03 * two)
        >>> stars.responsibility(posed.y[0]).shape == posed.y[0].shape
        True
    """
    trend = jnp.asarray(common.floor_place) @ gamma
    return OutlierStars(
        tuple(s.mean(coef) for s in strata), tuple(s.variance(scale, floor, trend) for s in strata),
        tuple(s.log_odds(rate) for s in strata),
    )  # fmt: skip
