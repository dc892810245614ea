"""Cross-calibration of surveys with a flat true value: the first program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Float
from hbcal.distributions.flat_stars import Block, FlatStars, stack
from hbcal.numerics.collapse import conditional_draw
from hbcal.programs.plated import plated


@pytree
class Label:
    """One label: its blocks of stars and the prior of its coefficients.

    Attributes:
        blocks: the stars that at least two measurements tie together.
        weight: prior sd of each coefficient relative to its scale, (n_coef,).
        fixed_sd: scale of each coefficient where the recipe states it, (n_coef,); 0 where it is learnt.
        learnt_sd: (n_coef, n_scale) one-hot: which learnt scale each other coefficient has.
        name: of the label.
    """

    blocks: tuple[Block, ...]
    weight: Float[AnyArray, " n_coef"]
    fixed_sd: Float[AnyArray, " n_coef"]
    learnt_sd: Float[AnyArray, "n_coef n_scale"]
    name: str = static()

    def prior_sd(self, scales: Float[AnyArray, " n_scale"]) -> Float[Array, " n_coef"]:
        """Prior sd of each coefficient, label unit."""
        return jnp.asarray(self.weight) * (self.fixed_sd + self.learnt_sd @ scales)


@pytree
class Design:
    """Everything fixed: the labels, and the unit in which each sampled number is measured.

    Attributes:
        labels: one per label with something to calibrate.
        floor_unit: prior scale of each floor, label unit, (n_floor,).
        scale_unit: prior scale of each learnt prior sd, label unit, (n_scale,).
        floor_place: (n_floor, n_floor_term, n_gamma) one-hot: which term of which floor each gamma belongs to.
        n_error: how many error scales there are.
    """

    labels: tuple[Label, ...]
    floor_unit: Float[AnyArray, " n_floor"]
    scale_unit: Float[AnyArray, " n_scale"]
    floor_place: Float[AnyArray, "n_floor n_floor_term n_gamma"]
    n_error: int = static()

    @property
    def n_gamma(self) -> int:
        """How many log-linear terms all floors have together."""
        return self.floor_place.shape[2]

    def variances(self, label: Label, sites: Mapping[str, AnyArray]) -> tuple[Array, ...]:
        """Noise variance of each block of a label, given a draw of the noise sites."""
        none = jnp.zeros(0)
        gamma = jnp.asarray(self.floor_place) @ sites.get("floor_trend", none)
        return tuple(b.variance(sites.get("error_scale", none), sites.get("floor", none), gamma) for b in label.blocks)


@dataclass(frozen=True)
class Priors:
    """The numbers a recipe may set: sd of log error scale, and of the floor's log-linear terms."""

    error_scale: float = 0.3
    floor_trend: float = 0.5


def crosscal(
    design: Design, y: tuple[AnyArray, ...] | None = None, *, priors: Priors = Priors()
) -> tuple[AnyArray, ...]:
    """Zero points, trends, error scales and floors of surveys that share stars.

        y_isl = z_il + delta_sl + sum_k beta_slk phi_k(x_is) + noise
        noise ~ N(0, (a_sl e_isl)^2 + (tau_sl exp(sum_m gamma_slm psi_m(x_is)))^2),    z_il flat

    | site          | axis        | prior                          | what                                          |
    |---------------|-------------|--------------------------------|-----------------------------------------------|
    | error_scale   | n_error     | LogNormal(0, priors.error_scale)| a, where a survey reports errors              |
    | floor         | n_floor     | HalfNormal(design.floor_unit)  | tau, where a survey is not an anchor           |
    | floor_trend   | n_gamma     | Normal(0, priors.floor_trend)  | gamma, where a floor has that term            |
    | prior_sd      | n_scale     | HalfNormal(design.scale_unit)  | hierarchical sd of offsets and trends          |
    | coef_<label>  | n_coef      | Normal(0, sd)                  | delta, beta; sampled only when y is omitted    |
    | y_<label>     |             | FlatStars                      | z and (delta, beta) integrated out when given  |

    Omit `y` to simulate: true values at zero, coefficients as a site of their own.

    Args:
        design: what is fixed.
        y: per label the measurements as one vector (`FlatStars`), label unit.
        priors: the numbers of the priors.

    Returns:
        The measurements per label.

    Errors:
        None: a design is checked where it is built.

    Example:
        >>> from numpyro.handlers import seed
        >>> y = seed(crosscal, jax.random.PRNGKey(0))(tiny_prepared().design)  # simulated: no y given
        >>> [each.shape == given.shape for each, given in zip(y, tiny_prepared().y)]
        [True]
    """
    log_normal = dist.LogNormal(0.0, priors.error_scale).expand([design.n_error])
    noise = {
        "error_scale": plated("error_scale", "n_error", log_normal),
        "floor": plated("floor", "n_floor", dist.HalfNormal(design.floor_unit)),
        "floor_trend": plated("floor_trend", "n_gamma", dist.Normal(0.0, priors.floor_trend).expand([design.n_gamma])),
    }
    scales = plated("prior_sd", "n_scale", dist.HalfNormal(design.scale_unit))

    measured = []
    for i, label in enumerate(design.labels):
        prior_sd = label.prior_sd(scales)
        variances = design.variances(label, noise)
        if y is None:
            coef = numpyro.sample(f"coef_{label.name}", dist.Normal(0.0, prior_sd).to_event(1))
            mean = stack([block.mean(coef) for block in label.blocks])
            model = dist.Normal(mean, jnp.sqrt(stack(list(variances)))).to_event(1)
        else:
            model = FlatStars(label.blocks, variances, prior_sd)
        measured.append(numpyro.sample(f"y_{label.name}", model, obs=None if y is None else y[i]))
    return tuple(measured)


def draw_coefficients(
    key: Array,
    drawn: dict[str, AnyArray],
    design: Design,
    y: tuple[AnyArray, ...],
    *,
    white: float | Array = 1.0,
    **_: object,
) -> dict[str, Array]:
    """Draw (delta, beta) exactly, given one draw of the sampled sites.

    Args:
        key: JAX random key.
        drawn: one draw of `error_scale`, `floor`, `floor_trend`, `prior_sd`.
        design: as given to `crosscal`.
        y: as given to `crosscal`.
        white: 1 for a draw, 0 for the conditional mean.
        **_: the program's keyword arguments, which do not matter here.

    Returns:
        ``coef_<label>`` (n_coef,) per label, label unit.

    Errors:
        None.

    Example:
        >>> prepared = tiny_prepared()
        >>> noise = {"error_scale": jnp.ones(2), "floor": jnp.full(2, 0.1)}
        >>> coefficients = draw_coefficients(jax.random.PRNGKey(0), noise, prepared.design, prepared.y)
        >>> coefficients["coef_fe_h"].shape  # zero point and two trends of each of two surveys
        (6,)
    """
    draws = {}
    scales = drawn.get("prior_sd", jnp.zeros(0))
    for label, measured, label_key in zip(design.labels, y, jax.random.split(key, len(design.labels)), strict=True):
        stars = FlatStars(label.blocks, design.variances(label, drawn), label.prior_sd(scales))
        mean, factor = stars.conditional(measured)
        draws[f"coef_{label.name}"] = conditional_draw(mean, factor, white * jax.random.normal(label_key, mean.shape))
    return draws
