"""Cross-calibration of surveys that report several labels with correlated errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array
from hbcal.distributions.correlated_stars import CorrelatedStars, Visits
from hbcal.numerics.collapse import conditional_draw
from hbcal.programs.crosscal import Design
from hbcal.programs.plated import plated


@pytree
class CorrelatedDesign:
    """Everything fixed: the globals of `crosscal`, and its stars visit by visit, the labels side by side.

    Attributes:
        common: labels, prior scales and floor terms, as `crosscal` has them; its blocks of stars are not used.
        groups: the stars.
        correlated: survey and positions of the labels of each fitted correlation.
    """

    common: Design
    groups: tuple[Visits, ...]
    correlated: tuple[tuple[str, tuple[int, ...]], ...] = static()

    def stars(self, sites: Mapping[str, AnyArray]) -> CorrelatedStars:
        """The distribution of all measurements, given a draw of the noise sites."""
        common, none = self.common, jnp.zeros(0)
        gamma = jnp.asarray(common.floor_place) @ sites.get("floor_trend", none)
        corr = []
        for survey, at in self.correlated:
            root, where = sites[f"corr_{survey}"], np.array(at)
            corr.append(jnp.eye(len(common.labels)).at[where[:, None], where].set(root @ root.T))
        noise = (sites.get("error_scale", none), sites.get("floor", none), gamma, tuple(corr))
        prior_sd = [label.prior_sd(sites.get("prior_sd", none)) for label in common.labels]
        return CorrelatedStars(self.groups, tuple(g.covariance(*noise) for g in self.groups), jnp.concatenate(prior_sd))

    def by_label(self, coef: Array) -> dict[str, Array]:
        """Coefficients of all labels, (n_coef,), as one site per label."""
        ends = np.cumsum([len(label.weight) for label in self.common.labels])
        return {f"coef_{x.name}": c for x, c in zip(self.common.labels, jnp.split(coef, ends[:-1]), strict=True)}


@dataclass(frozen=True)
class CorrelatedPriors:
    """The numbers a recipe may set: those of `crosscal`; and the concentration of correlations towards none."""

    error_scale: float = 0.3
    floor_trend: float = 0.5
    correlation: float = 2.0


def crosscal_correlated(
    design: CorrelatedDesign, y: tuple[AnyArray, ...] | None = None, *, priors: CorrelatedPriors = CorrelatedPriors()
) -> tuple[AnyArray, ...]:
    """Zero points, trends, error scales, floors and correlations between the labels of surveys that share stars.

        y_isl = z_il + delta_sl + sum_k beta_slk phi_k(x_is) + noise,    z_il flat
        Cov(noise_isl, noise_ism) = a_sl e_isl R_islm a_sm e_ism + tau_isl R_slm tau_ism

    with tau_isl = tau_sl exp(sum_m gamma_slm psi_m(x_is)); R_is as the survey gives it, and R_s where it does not.

    | site          | axis    | prior                           | what                                              |
    |---------------|---------|---------------------------------|---------------------------------------------------|
    | error_scale   | n_error | LogNormal(0, priors.error_scale)| a, where a survey reports errors                  |
    | floor         | n_floor | HalfNormal(common.floor_unit)   | tau, where a survey is not an anchor              |
    | floor_trend   | n_gamma | Normal(0, priors.floor_trend)   | gamma, where a floor has that term                |
    | prior_sd      | n_scale | HalfNormal(common.scale_unit)   | hierarchical sd of offsets and trends             |
    | corr_<survey> |         | LKJ(priors.correlation)         | Cholesky factor of R_s, where asked; else R_s = I |
    | coef_<label>  | n_coef  | Normal(0, sd)                   | delta, beta; sampled only when y is omitted       |
    | y_all         |         | CorrelatedStars                 | z and (delta, beta) integrated out when given     |

    Omit `y` to simulate: true labels at zero, coefficients as sites of their own.

    Args:
        design: what is fixed.
        y: a tuple with the measurements as one table (`CorrelatedStars`), label units.
        priors: the numbers of the priors.

    Returns:
        The measurements, in a tuple.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from hbcal.correlated import correlated
        >>> posed = correlated(tiny_correlated())
        >>> simulated = numpyro.handlers.seed(crosscal_correlated, 0)(posed.design)  # no y given
        >>> simulated[0].shape == posed.y[0].shape
        True
    """
    common = design.common
    log_normal = dist.LogNormal(0.0, priors.error_scale).expand([common.n_error])
    sites = {
        "error_scale": plated("error_scale", "n_error", log_normal),
        "floor": plated("floor", "n_floor", dist.HalfNormal(common.floor_unit)),
        "floor_trend": plated("floor_trend", "n_gamma", dist.Normal(0.0, priors.floor_trend).expand([common.n_gamma])),
        "prior_sd": plated("prior_sd", "n_scale", dist.HalfNormal(common.scale_unit)),
    }
    for survey, at in design.correlated:
        sites[f"corr_{survey}"] = numpyro.sample(f"corr_{survey}", dist.LKJCholesky(len(at), priors.correlation))
    stars = design.stars(sites)
    if y is not None:
        return (numpyro.sample("y_all", stars, obs=y[0]),)
    coef = [
        numpyro.sample(f"coef_{label.name}", dist.Normal(0.0, label.prior_sd(sites["prior_sd"])).to_event(1))
        for label in common.labels
    ]
    return (numpyro.sample("y_all", stars.given(jnp.concatenate(coef))),)


def draw_coefficients(
    key: Array,
    drawn: dict[str, AnyArray],
    design: CorrelatedDesign,
    y: tuple[AnyArray, ...],
    *,
    white: float | Array = 1.0,
    **_: object,
) -> dict[str, Array]:
    """Draw (delta, beta) of all labels exactly, given one draw of the sampled sites.

    Args:
        key: JAX random key.
        drawn: one draw of every site but the coefficients.
        design, y: as given to `crosscal_correlated`.
        white: 1 for a draw, 0 for the conditional mean.
        **_: the program's keyword arguments, which do not matter here.

    Returns:
        ``coef_<label>`` (n_coef,) per label, label unit.

    Errors:
        KeyError when a site is missing.

    Example:
        >>> from hbcal.correlated import correlated
        >>> posed = correlated(tiny_correlated())
        >>> noise = {"error_scale": jnp.ones(4), "floor": jnp.full(4, 0.1)}
        >>> noise |= {"corr_s1": jnp.eye(2), "corr_s2": jnp.eye(2)}
        >>> sorted(draw_coefficients(jax.random.PRNGKey(0), noise, posed.design, posed.y))
        ['coef_fe_h', 'coef_mg_h']
    """
    mean, factor = design.stars(drawn).conditional(y[0])
    return design.by_label(conditional_draw(mean, factor, white * jax.random.normal(key, mean.shape)))
