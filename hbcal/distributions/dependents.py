"""What dependent surveys report, measurement by measurement: their own, a mixture with their parents', or a copy."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Bool, Float
from hbcal.distributions.outlier_stars import NEVER
from hbcal.numerics.outliers import INFLATION

GRAIN = 0.005  # smallest sd of a copy, in units of the floor's scale: a last digit
NARROW = 0.3  # sd of a copy of width one, in units of the scatter of what is not copied


@pytree
class Dependents:
    """Measurements of dependent surveys; a pair is a survey and a label, a copy a pair and one of its parents.

    Attributes:
        z, z_var: what the voters say about the true label, (n,), label unit (squared).
        phi: design rows, the zero point's column of ones first, (n, n_term).
        who: pair of each measurement, one-hot, (n, n_pair).
        err2: squared reported errors, 0 where none, (n,).
        parents: values its parents report for the star, (n, n_parent), 0 where not seen.
        seen: where a parent reports one, (n, n_parent).
        unit: prior scale of floors, (n_pair,), label unit.
        prior_sd: of zero point and trends, (n_pair, n_term), label unit.
        error_of: error scale of each pair, one-hot, (n_pair, n_error); no row where no errors are reported.
        copy_of: copies, one-hot, (n_pair, n_parent, n_copy).
    """

    z: Float[AnyArray, " n"]
    z_var: Float[AnyArray, " n"]
    phi: Float[AnyArray, "n n_term"]
    who: Float[AnyArray, "n n_pair"]
    err2: Float[AnyArray, " n"]
    parents: Float[AnyArray, "n n_parent"]
    seen: Bool[AnyArray, "n n_parent"]
    unit: Float[AnyArray, " n_pair"]
    prior_sd: Float[AnyArray, "n_pair n_term"]
    error_of: Float[AnyArray, "n_pair n_error"]
    copy_of: Float[AnyArray, "n_pair n_parent n_copy"]


def components(design: Dependents, drawn: Mapping[str, AnyArray]) -> tuple[Array, Array, Array]:
    """What each measurement may be: own or mixed, the same as an outlier, a copy from each parent.

    Args:
        design: what is fixed.
        drawn: one draw of every site of `hbcal.programs.crosscal_dependents`.

    Returns:
        Log weight, mean and sd, each (n, 2 + n_parent), label unit; the weights of a row sum to one.

    Errors:
        None.

    Example:
        >>> import numpyro
        >>> from hbcal.dependents import second_stage
        >>> from hbcal.programs.crosscal_dependents import crosscal_dependents
        >>> design = second_stage(*tiny_network()).design
        >>> with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        ...     _ = crosscal_dependents(design)
        >>> weight, mean, sd = components(design, {name: site["value"] for name, site in sites.items()})
        >>> weight.shape[1], bool(jnp.allclose(jnp.exp(weight).sum(1), 1.0))  # itself, as an outlier, two parents
        (4, True)
    """
    error_of, copy_of = jnp.asarray(design.error_of), jnp.asarray(design.copy_of)
    scale2 = error_of @ drawn["error_scale"] ** 2 + (1.0 - error_of.sum(1))
    of_pair = [drawn[name] for name in ("shift", "share", "floor", "mixed_floor", "outlier_rate")]
    each = jnp.stack([*of_pair, scale2], axis=1)
    shift, share, floor, mixed_floor, rate, scale2 = (jnp.asarray(design.who) @ each).T
    seen = jnp.asarray(design.seen)
    n_seen = seen.sum(1)
    mixed = n_seen > 0
    share = jnp.where(mixed, share, 0.0)
    middle = (design.parents * seen).sum(1) / jnp.maximum(n_seen, 1)
    own = design.z + ((design.phi @ drawn["coef"].T) * design.who).sum(1)
    mean = (1.0 - share) * own + share * middle + jnp.where(mixed, shift, 0.0)
    noise = jnp.where(mixed, mixed_floor**2, scale2 * design.err2 + floor**2)
    var = (1.0 - share) ** 2 * design.z_var + noise

    each = jnp.stack([drawn["copy_odds"], drawn["copy_offset"], drawn["copy_width"]])
    per_pair = jnp.einsum("pjc,kc->pjk", copy_of, each)
    odds, offset, width = jnp.moveaxis(jnp.einsum("np,pjk->njk", design.who, per_pair), 2, 0)
    odds = jnp.where(seen, odds, 0.0)
    grain = GRAIN * (design.who @ design.unit)
    narrow = jnp.sqrt(grain[:, None] ** 2 + (NARROW * width * mixed_floor[:, None]) ** 2)
    none = 1.0 + odds.sum(1)
    copies = jnp.where(odds > 0, jnp.log(jnp.where(odds > 0, odds, 1.0) / none[:, None]), NEVER)
    weight = [jnp.log1p(-rate) - jnp.log(none), jnp.log(rate) - jnp.log(none)]
    join = lambda first, rest: jnp.concatenate([jnp.stack(first, axis=1), rest], axis=1)  # noqa: E731
    return (
        join(weight, copies), join([mean, mean], design.parents + offset),
        join([jnp.sqrt(var), jnp.sqrt(var + (INFLATION - 1.0) * noise)], narrow),
    )  # fmt: skip
