"""The programs by name: what each is given, where its chains start, and what its draws say about the measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.catalogue.catalogue import Catalogue
from hbcal.correlated import correlated
from hbcal.design import Prepared, prepare
from hbcal.infer.optimise import Mode
from hbcal.infer.task import Task
from hbcal.programs.crosscal_correlated import CorrelatedPriors, crosscal_correlated, draw_coefficients
from hbcal.programs.crosscal_robust import RobustDesign, RobustPriors, crosscal_robust, outlier_stars
from hbcal.programs.crosscal_structural import StructuralPriors, crosscal_structural
from hbcal.start import Start, collapsed_task, coordinates, find_start, rough_start
from hbcal.strata import robust
from hbcal.structural import Structural, structural

FAR = 5.0  # sd beyond which a measurement does not help to find where a robust fit starts
MOST_DRAWS = 200


@dataclass(frozen=True)
class Problem:
    """A program with everything NUTS needs.

    Attributes:
        prepared: the data it is fitted to; less than was given where the recipe clips.
        task: program, data, start.
        converged: whether the search for the posterior's mode ended.
        clipped: the measurements that were left out for lying too far out.
    """

    prepared: Prepared
    task: Task
    converged: bool
    clipped: Catalogue


def task_of(prepared: Prepared) -> Task:
    """The recipe's program and its arguments, without a start.

    Args:
        prepared: with its recipe.

    Returns:
        `Task`.

    Errors:
        None: a recipe names a program there is.

    Example:
        >>> task_of(tiny_prepared()).program.__name__
        'crosscal'
    """
    return PROGRAMS[prepared.recipe.program].task(prepared, {}, None)


def pose(prepared: Prepared) -> Problem:
    """Find where the chains start: the posterior's mode, and Laplace's covariance there.

    Args:
        prepared: with its recipe.

    Returns:
        `Problem`.

    Errors:
        None.

    Example:
        >>> pose(tiny_prepared()).converged
        True
    """
    way = PROGRAMS[prepared.recipe.program]
    left, start = way.start(prepared)
    out = np.zeros(len(prepared.catalogue.value), bool)
    out[start.clipped] = True
    task = way.task(left, start.sites, start.inverse_mass)
    return Problem(left, task, start.converged, prepared.catalogue.select(out))


def clipped_start(prepared: Prepared) -> tuple[Prepared, Start]:
    """Where `crosscal` starts, and what is left of its data where the recipe clips.

    Args:
        prepared: with its recipe.

    Returns:
        Without the measurements that lie too far out; `Start`.

    Errors:
        None.

    Example:
        >>> left, _ = clipped_start(tiny_prepared())
        >>> len(left.catalogue.value) == len(tiny_prepared().catalogue.value)  # the recipe does not clip
        True
    """
    clip = prepared.recipe.clip
    start = find_start(prepared, clip)
    if not len(start.clipped):
        return prepared, start
    keep = np.ones(len(prepared.catalogue.value), bool)
    keep[start.clipped] = False
    left = prepared.catalogue.select(keep, f"more than {clip:g} sigma from the starting fit")
    again = prepare(prepared.recipe, left)
    names = [(p.floors, p.error_scales, p.scales, p.floor_names) for p in (prepared, again)]
    return again, start if names[0] == names[1] else replace(find_start(again), clipped=start.clipped)


def robust_task(prepared: Prepared, sites: Mapping[str, np.ndarray], inverse_mass: np.ndarray | None = None) -> Task:
    """`crosscal_robust` with its data; coordinates as in `hbcal.start.collapsed_task`.

    Args:
        prepared, sites, inverse_mass: as there.

    Returns:
        `Task`.

    Errors:
        None.

    Example:
        >>> robust_task(tiny_prepared(), {}).program.__name__
        'crosscal_robust'
    """
    spec, posed = prepared.recipe.priors, robust(prepared)
    priors = RobustPriors(spec.error_scale, spec.floor_trend, spec.outlier_rate)
    args = (posed.design, posed.y)
    return coordinates(prepared, Task(crosscal_robust, args, {"priors": priors}, sites, None, inverse_mass))


def robust_start(prepared: Prepared) -> tuple[Prepared, Start]:
    """The mode of `crosscal_robust`, searched from the collapsed fit without what lies far out.

    Args:
        prepared: design and data.

    Returns:
        The same, nothing is clipped; `Start`.

    Errors:
        None.

    Example:
        >>> sorted(robust_start(tiny_prepared())[1].sites)
        ['coef_fe_h', 'error_scale', 'floor', 'outlier_rate']
    """
    rate = np.full(len(prepared.rates), prepared.recipe.priors.outlier_rate)
    begin = {**rough_start(prepared, FAR), **({"outlier_rate": rate} if len(rate) else {})}
    return prepared, _at_the_mode(robust_task(prepared, begin))


def _at_the_mode(task: Task) -> Start:
    """Where a program that clips nothing starts: at its mode, searched from the task's start."""
    mode = Mode(task)
    sites = mode(task.args)
    found = {k: np.asarray(sites[k]) for k in task.start}
    return Start(found, mode.inverse_mass(), np.zeros(0, int), mode.converged)


def correlated_task(
    prepared: Prepared, sites: Mapping[str, np.ndarray], inverse_mass: np.ndarray | None = None
) -> Task:
    """`crosscal_correlated` with its data; coordinates as in `hbcal.start.collapsed_task`.

    Args:
        prepared, sites, inverse_mass: as there.

    Returns:
        `Task`.

    Errors:
        HbcalError as `hbcal.correlated.correlated`.

    Example:
        >>> correlated_task(tiny_correlated(), {}).program.__name__
        'crosscal_correlated'
    """
    spec, posed = prepared.recipe.priors, correlated(prepared)
    priors = CorrelatedPriors(spec.error_scale, spec.floor_trend)
    args = (posed.design, posed.y)
    task = Task(crosscal_correlated, args, {"priors": priors}, sites, draw_coefficients, inverse_mass)
    return coordinates(prepared, task)


def correlated_start(prepared: Prepared) -> tuple[Prepared, Start]:
    """The mode of `crosscal_correlated`, searched from that of `crosscal`, which clips where the recipe asks for it.

    Args:
        prepared: design and data.

    Returns:
        Without the measurements that lie too far out; `Start`.

    Errors:
        HbcalError as `hbcal.correlated.correlated`.

    Example:
        >>> sorted(correlated_start(tiny_correlated())[1].sites)
        ['corr_s1', 'corr_s2', 'error_scale', 'floor']
    """
    left, start = clipped_start(prepared)
    task = correlated_task(left, start.sites)
    none = {f"corr_{survey}": np.eye(len(at)) for survey, at in task.args[0].correlated}
    found = _at_the_mode(replace(task, start={**start.sites, **none}))
    return left, replace(found, clipped=start.clipped)


def structural_task(
    prepared: Prepared, sites: Mapping[str, np.ndarray], inverse_mass: np.ndarray | None = None
) -> Task:
    """`crosscal_structural` with its data; coordinates as in `hbcal.start.collapsed_task`.

    Args:
        prepared, sites, inverse_mass: as there.

    Returns:
        `Task`.

    Errors:
        None.

    Example:
        >>> structural_task(tiny_structural(), {}).program.__name__
        'crosscal_structural'
    """
    spec, posed = prepared.recipe.priors, structural(prepared)
    priors = StructuralPriors(spec.error_scale, spec.floor_trend)
    args = (posed.design, posed.y)
    return coordinates(prepared, Task(crosscal_structural, args, {"priors": priors}, sites, None, inverse_mass))


def structural_start(prepared: Prepared) -> tuple[Prepared, Start]:
    """The mode of `crosscal_structural`, searched from least squares without trends in true labels.

    Args:
        prepared: design and data.

    Returns:
        The same, nothing is clipped; `Start`.

    Errors:
        None.

    Example:
        >>> sorted(structural_start(tiny_structural())[1].sites)[-3:]
        ['floor', 'population_mean', 'population_sd']
    """
    begin = rough_start(prepared, FAR)
    begin |= _rough_populations(prepared, structural(prepared))
    return prepared, _at_the_mode(structural_task(prepared, begin))


def _rough_populations(prepared: Prepared, posed: Structural) -> dict[str, np.ndarray]:
    """Mean and scatter of what was measured of each group's stars."""
    cat, design = prepared.catalogue, posed.design
    mean = np.tile(np.asarray(design.centre, float), (len(posed.rows), 1))
    sd = np.tile(np.asarray(design.scale, float), (len(posed.rows), 1))
    for g, rows in enumerate(posed.rows):
        for l, label in enumerate(prepared.overlap.fitted):
            values = cat.value[rows[(rows >= 0) & (cat.label[rows] == cat.labels.index(label))]]
            if len(values) > 1:
                mean[g, l], sd[g, l] = np.median(values), max(values.std(), 1e-3 * sd[g, l])
    corr = {f"corr_{group.name}": np.eye(mean.shape[1]) for group in design.groups if mean.shape[1] > 1}
    return {"population_mean": mean, "population_sd": sd, **corr}


def outlier_probability(prepared: Prepared, sites: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Posterior probability of every measurement to be an outlier: its responsibility, averaged over the draws.

    Behind the surveys' measurements stand those of clusters: there, that the star is no member.

    Args:
        prepared: design and data.
        sites: draws per site, each (n_chain, n_draw, ...).

    Returns:
        (n_measurement,) in the joined catalogue's order, NaN for those that are not in the fit; None for a program
        without outliers.

    Errors:
        KeyError when a site is missing.

    Example:
        >>> outlier_probability(tiny_prepared(), {}) is None
        True
    """
    if prepared.recipe.program != "crosscal_robust":
        return None
    posed = robust(prepared)
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in sites.items()}
    n = len(next(iter(flat.values())))
    pick = np.unique(np.linspace(0, n - 1, min(n, MOST_DRAWS)).astype(int))
    found = _responsibilities({k: jnp.asarray(v[pick]) for k, v in flat.items()}, posed.design, posed.y)
    out = np.full(len(prepared.joined.value), np.nan)
    for rows, probability in zip(posed.rows, found, strict=True):
        out[rows] = np.asarray(probability)
    return out


def suspects(prepared: Prepared, probability: np.ndarray) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """What `outlier_probability` says, by name: of measurements, and of the lists of cluster members.

    Args:
        prepared: design and data.
        probability: of the joined catalogue's measurements, (n,).

    Returns:
        ``outlier_probability`` (measurement) and, with clusters, ``not_member_probability`` (star, label), NaN for
        stars without a say; each with its dims.

    Errors:
        None.

    Example:
        >>> prepared = tiny_clusters()
        >>> found = suspects(prepared, np.zeros(len(prepared.joined.value)))
        >>> {name: dims for name, (dims, _) in found.items()}
        {'outlier_probability': ('measurement',), 'not_member_probability': ('star', 'label')}
    """
    cat, joined = prepared.catalogue, prepared.joined
    n = len(cat.value)
    out: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"outlier_probability": (("measurement",), probability[:n])}
    if cat.members is not None:
        wrong = np.full((cat.n_star, len(cat.labels)), np.nan)
        wrong[joined.star[n:], joined.label[n:]] = probability[n:]
        out["not_member_probability"] = (("star", "label"), wrong)
    return out


@jax.jit
def _responsibilities(draws: dict[str, Array], design: RobustDesign, y: tuple[Array, ...]) -> tuple[Array, ...]:
    def one(d: dict[str, Array]) -> tuple[Array, ...]:
        none = jnp.zeros(0)
        noise = [d.get(name, none) for name in ("error_scale", "floor", "floor_trend", "outlier_rate")]
        stars = [
            outlier_stars(design.common, strata, d[f"coef_{label.name}"], *noise)
            for label, strata in zip(design.common.labels, design.strata, strict=True)
        ]
        return tuple(s.responsibility(v) for s, v in zip(stars, y, strict=True))

    n = next(iter(draws.values())).shape[0]
    zero = tuple(jnp.zeros_like(v) for v in y)
    add = lambda i, total: jax.tree.map(jnp.add, total, one(jax.tree.map(lambda v: v[i], draws)))  # noqa: E731
    return jax.tree.map(lambda total: total / n, jax.lax.fori_loop(0, n, add, zero))


@dataclass(frozen=True)
class Way:
    """How a program is posed: its task at given sites, and its start."""

    task: Callable[[Prepared, Mapping[str, np.ndarray], np.ndarray | None], Task]
    start: Callable[[Prepared], tuple[Prepared, Start]]


PROGRAMS = {
    "crosscal": Way(collapsed_task, clipped_start),
    "crosscal_correlated": Way(correlated_task, correlated_start),
    "crosscal_robust": Way(robust_task, robust_start),
    "crosscal_structural": Way(structural_task, structural_start),
}
