"""Where a fit starts: weighted least squares, and the clipping a recipe may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, count

import jax
import numpy as np

from hbcal._typing import Array
from hbcal.design import Prepared
from hbcal.infer.fold import SUFFIX
from hbcal.infer.optimise import Mode
from hbcal.infer.ring import Arc, Chain, Ring
from hbcal.infer.task import Task
from hbcal.programs.crosscal import Design, Priors, crosscal, draw_coefficients

FREE = 8  # rounds in which a clipped measurement may come back


def ring_of(prepared: Prepared) -> Chain | None:
    """What shares one scatter: error scale and floor of a survey, spread within its clusters, floors without errors.

    Args:
        prepared: names its scales and floors.

    Returns:
        `Chain` with the median error of each pair, label units; None without a pair.

    Errors:
        None.

    Example:
        >>> ring_of(tiny_prepared()).links[0].floor_at.tolist()
        [0, 1]
        >>> len(ring_of(tiny_clusters()).links)  # then the spread within clusters, of which the data know a sum
        2
    """
    both = [pair for pair in prepared.floors if pair in prepared.error_scales]
    bare = set(prepared.floors) - set(both)
    links: list[Ring | Arc] = [_ring(prepared, both, both)] if both else []
    for label, loose in prepared.overlap.sums.items():
        for kind in (k for k in prepared.recipe.clusters if k in loose):
            n_star = {
                tie.survey: tie.n_star for tie in prepared.overlap.ties
                if (tie.label, tie.other) == (label, kind) and (tie.survey, label) in prepared.floors
            }  # fmt: skip
            if not n_star:
                continue
            survey = max(n_star, key=lambda s: n_star[s])
            if (survey, label) in both:
                links.append(_ring(prepared, [(survey, label)], [(kind, label)]))
            else:
                at = [np.array([prepared.floors.index((name, label))]) for name in (survey, kind)]
                links.append(Arc(f"floor{SUFFIX}", *at))
            bare -= {(survey, label), (kind, label)}
    if pairs := _pairs(prepared, bare):
        links.append(Arc(f"floor{SUFFIX}", *np.array([[prepared.floors.index(p) for p in pair] for pair in pairs]).T))
    return Chain(tuple(links)) if links else None


def _pairs(prepared: Prepared, bare: set[tuple[str, str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Two floors without errors, wherever more stars have these two sources alone than either shares with a third.

    There the data know the sum better than either; elsewhere the floors themselves are the better coordinates.
    """
    cat, pairs = prepared.catalogue, []
    for label in sorted({label for _, label in bare}):
        rows = cat.label == cat.labels.index(label)
        seen = np.zeros((cat.star.max() + 1, len(cat.surveys)), bool)
        seen[cat.star[rows], cat.survey[rows]] = True
        n_seen = seen.sum(axis=1)
        names = sorted(survey for survey, of in bare if of == label and survey in cat.surveys)
        for one, other in combinations(names, 2):
            a, b = (seen[:, cat.surveys.index(name)] for name in (one, other))
            third = n_seen - a - b > 0
            if (a & b & ~third).sum() > max((a & third).sum(), (b & third).sum()):
                pairs.append(((one, label), (other, label)))
    return pairs


def _ring(prepared: Prepared, scales: list[tuple[str, str]], floors: list[tuple[str, str]]) -> Ring:
    cat = prepared.catalogue
    where = [(cat.survey == cat.surveys.index(s)) & (cat.label == cat.labels.index(l)) for s, l in scales]
    return Ring(
        "error_scale", f"floor{SUFFIX}", np.array([prepared.error_scales.index(pair) for pair in scales]),
        np.array([prepared.floors.index(pair) for pair in floors]),
        np.array([np.nanmedian(cat.error[w]) for w in where]),
    )  # fmt: skip


def collapsed_task(prepared: Prepared, sites: Mapping[str, np.ndarray], inverse_mass: np.ndarray | None = None) -> Task:
    """What the search for the mode and the chains of `crosscal` have in common.

    Args:
        prepared: with its recipe.
        sites: constrained starting values, in their own units.
        inverse_mass: covariance to start NUTS with, unconstrained; None where there is none yet.

    Returns:
        `Task`; floors are sampled with a sign, and straightened together with their error scales.

    Errors:
        None.

    Example:
        >>> collapsed_task(tiny_prepared(), {}).fold
        ('floor',)
    """
    spec = prepared.recipe.priors
    args, priors = (prepared.design, prepared.y), Priors(spec.error_scale, spec.floor_trend)
    return coordinates(prepared, Task(crosscal, args, {"priors": priors}, sites, draw_coefficients, inverse_mass))


def coordinates(prepared: Prepared, task: Task) -> Task:
    """The coordinates in which every program's noise is sampled: floors signed, each scatter one number.

    Args:
        prepared: what the task is of.
        task: in its own coordinates.

    Returns:
        `Task`.

    Errors:
        None.

    Example:
        >>> coordinates(tiny_prepared(), Task(crosscal)).fold
        ('floor',)
    """
    return replace(task, fold=("floor",), ring=ring_of(prepared))


def least_squares_start(prepared: Prepared) -> dict[str, np.ndarray]:
    """Starting values of the sampled sites: weighted least squares for the coefficients, scatter for the floors.

    Four rounds of: solve (sum phi^T K phi + prior) theta = sum phi^T K y, then set each floor from the robust scatter
    of each measurement against the others of its star, tau^2 = (1.4826 MAD)^2 - (a e)^2 - 1 / (W - w).

    Args:
        prepared: design and data.

    Returns:
        Constrained values: ``error_scale`` 1, ``floor`` and ``prior_sd`` in label units, ``floor_trend`` 0.

    Errors:
        None.

    Example:
        >>> {name: value.shape for name, value in least_squares_start(tiny_prepared()).items()}
        {'error_scale': (2,), 'floor': (2,)}
    """
    design = prepared.design
    floor = np.asarray(design.floor_unit, float) * 0.5
    for _ in range(4):
        scatter: dict[int, list[np.ndarray]] = {i: [] for i in range(len(floor))}
        for label, y in zip(design.labels, prepared.y, strict=True):
            sd = np.asarray(label.prior_sd(np.asarray(design.scale_unit, float)))
            tables = [t.reshape(b.seen.shape) for b, t in zip(label.blocks, _cut(label.blocks, y), strict=True)]
            weights = [_weights(b, floor) for b in label.blocks]
            theta = _solve(label.blocks, tables, weights, sd)
            for block, table, w in zip(label.blocks, tables, weights, strict=True):
                delta, spare = _against_others(table - _shift(block, theta), w)
                for j, i in enumerate(block.floor_of):
                    ok = block.seen[:, j] & np.isfinite(delta[:, j])
                    if i >= 0 and ok.any():
                        scatter[i].append(np.c_[delta[ok, j], spare[ok, j] + block.err2[ok, j]])
        for i, parts in scatter.items():
            if parts:
                d, other = np.concatenate(parts).T
                tau2 = (1.4826 * np.median(np.abs(d))) ** 2 - np.median(other)
                floor[i] = np.sqrt(max(tau2, (0.05 * design.floor_unit[i]) ** 2))
    start: dict[str, np.ndarray] = {}
    if design.n_error:
        start["error_scale"] = np.ones(design.n_error)
    if len(floor):
        start["floor"] = floor
    if n_gamma := design.floor_place.shape[2]:
        start["floor_trend"] = np.zeros(n_gamma)
    if len(design.scale_unit):
        start["prior_sd"] = np.asarray(design.scale_unit, float)
    return start


@dataclass(frozen=True)
class Start:
    """Where and how NUTS starts.

    Attributes:
        sites: constrained values of the sampled sites at the posterior's mode, in their own units.
        inverse_mass: Laplace's covariance there, unconstrained.
        clipped: catalogue rows to leave out, (n_clipped,).
        converged: whether the search for the mode ended; NUTS starts all the same.
    """

    sites: dict[str, np.ndarray]
    inverse_mass: np.ndarray
    clipped: np.ndarray
    converged: bool


def find_start(prepared: Prepared, clip: float = 0.0) -> Start:
    """The posterior's mode, from least squares; with `clip`, without measurements that far from their star's others.

    The mode and the set are found in turn until the set stays; after eight rounds it may only grow, for some swing for
    ever. At most one measurement of a star goes at a time, never an anchor's where another can.

    Args:
        prepared: design and data.
        clip: in standard deviations; 0 keeps everything.

    Returns:
        `Start`.

    Errors:
        None.

    Example:
        >>> start = find_start(tiny_prepared(), clip=5.0)
        >>> start.inverse_mass.shape, len(start.clipped)  # two error scales and two floors; no outlier
        ((4, 4), 0)
    """
    design = prepared.design
    start = least_squares_start(prepared)
    mode = Mode(collapsed_task(prepared, start))
    sites: Mapping[str, np.ndarray] = start  # the first cut is by robust scatters: outliers inflate a mode's
    kept, out = design, np.zeros(0, int)
    for step in count():
        beyond = _beyond(prepared, kept, sites, clip) if clip else out
        beyond = beyond if step < FREE else np.union1d(out, beyond)
        if np.array_equal(beyond, out):
            break
        kept, out = _without(prepared, beyond), beyond
        sites = mode((kept, prepared.y))
    if not len(out):
        sites = mode((design, prepared.y))
    return Start({k: np.asarray(sites[k]) for k in start}, mode.inverse_mass(), out, mode.converged)


def rough_start(prepared: Prepared, far: float) -> dict[str, np.ndarray]:
    """Weighted least squares with the coefficients too, measurements that lie far out left aside.

    Args:
        prepared: design and data.
        far: in standard deviations of a measurement against the others of its star.

    Returns:
        As `least_squares_start`, and ``coef_<label>`` (n_coef,): the mean given those, label unit.

    Errors:
        None.

    Example:
        >>> rough_start(tiny_prepared(), 5.0)["coef_fe_h"].shape
        (6,)
    """
    sites = least_squares_start(prepared)
    near = _without(prepared, _beyond(prepared, prepared.design, sites, far))
    found = _coefficients(sites, near, prepared.y)
    return {**sites, **{name: np.asarray(value) for name, value in found.items()}}


@jax.jit
def _coefficients(sites: Mapping[str, Array], design: Design, y: tuple[Array, ...]) -> dict[str, Array]:
    return draw_coefficients(jax.random.PRNGKey(0), dict(sites), design, y, white=0.0)


def _beyond(prepared: Prepared, kept: Design, sites: Mapping[str, np.ndarray], clip: float) -> np.ndarray:
    """Catalogue rows of the measurements that are farther than the limit from those kept of their star's others."""
    theta = _coefficients(sites, kept, prepared.y)
    found = []
    for label, use, y, rows in zip(prepared.design.labels, kept.labels, prepared.y, prepared.rows, strict=True):
        blocks, noise = label.blocks, prepared.design.variances(label, sites)
        tables = zip(blocks, use.blocks, _cut(blocks, y), _cut(blocks, rows), map(np.asarray, noise), strict=True)
        for block, used, values, row, var in tables:
            residual = values.reshape(var.shape) - _shift(block, np.asarray(theta[f"coef_{label.name}"]))
            delta, spare = _against_others(residual, np.where(used.seen, 1.0 / var, 0.0))
            found.append(row.reshape(var.shape)[_worst(delta, spare + var, block, clip)])
    return np.sort(np.concatenate(found))


def _worst(delta, var, block, clip):
    """Mask of the measurements to leave out: the worst of each star beyond the limit, anchors only if nothing else."""
    z = np.where(block.seen, np.abs(delta) / np.sqrt(var), 0.0)
    z = np.where(np.isfinite(z), z, 0.0)
    order = np.where(np.array(block.floor_of) >= 0, z, 0.0)
    order = np.where(order.max(1, keepdims=True) > clip, order, z)
    # of two measurements both are equally far from the other: the less precise one goes
    tie = order + 1e-9 * np.where(block.seen, var / var.max(), 0.0)
    mask = np.zeros(z.shape, bool)
    mask[np.arange(len(z)), tie.argmax(1)] = True
    return mask & (z > clip)


def _without(prepared: Prepared, rows: np.ndarray):
    labels = []
    for label, where in zip(prepared.design.labels, prepared.rows, strict=True):
        blocks = [
            replace(b, seen=b.seen & ~np.isin(r, rows).reshape(b.seen.shape))
            for b, r in zip(label.blocks, _cut(label.blocks, where), strict=True)
        ]
        labels.append(replace(label, blocks=tuple(blocks)))
    return replace(prepared.design, labels=tuple(labels))


def _cut(blocks, flat):
    return np.split(np.asarray(flat), np.cumsum([b.seen.size for b in blocks])[:-1])


def _weights(block, floor):
    tau2 = np.array([floor[i] ** 2 if i >= 0 else 0.0 for i in block.floor_of])
    return np.where(block.seen, 1.0 / np.where(block.seen, block.err2 + tau2, 1.0), 0.0)


def _shift(block, theta):
    _, n_free, n_term = block.phi.shape
    out = np.zeros(block.seen.shape)
    out[:, :n_free] = np.einsum("isk,sk->is", block.phi, (block.spread @ theta).reshape(n_free, n_term))
    return out


def _against_others(r, weight):
    """Each measurement minus the weighted mean of the others of its star, and the variance of that mean."""
    rest = weight.sum(1, keepdims=True) - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = ((weight * r).sum(1, keepdims=True) - weight * r) / rest
        return np.where(rest > 0, r - mean, np.nan), np.where(rest > 0, 1.0 / rest, np.nan)


def _solve(blocks, tables, weights, sd):
    precision, linear = np.diag(sd**-2.0), np.zeros(len(sd))
    for block, y, w in zip(blocks, tables, weights, strict=True):
        n_star, n_free, n_term = block.phi.shape
        total = w.sum(1)
        centred = w * (y - ((w * y).sum(1) / total)[:, None])
        spread = block.spread.reshape(n_free, n_term, -1)
        mixed = np.zeros((n_star, len(sd)))
        for s in range(n_free):
            phi = block.phi[:, s] @ spread[s]
            precision += phi.T @ (w[:, s, None] * phi)
            linear += phi.T @ centred[:, s]
            mixed += w[:, s, None] * phi
        precision -= mixed.T @ (mixed / total[:, None])
    return np.linalg.solve(precision, linear)
