"""The second stage: surveys that depend on others are calibrated against what the voters say, and have no say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.copies import spike_of
from hbcal.design import Prepared
from hbcal.distributions.dependents import GRAIN, NARROW, Dependents
from hbcal.draws import label_draws
from hbcal.infer.optimise import Mode
from hbcal.infer.task import Task
from hbcal.numerics.outliers import INFLATION
from hbcal.predict import FEW_DRAWS, parents_of, true_label
from hbcal.programs.crosscal_dependents import DependentPriors, crosscal_dependents
from hbcal.recipe import Recipe
from hbcal.terms import OFFSET, trend_terms

UNUSED = 1e-6  # prior sd of a term that a pair does not have: its column is zero
LEAST = 10  # stars with a voter, to calibrate a dependent survey's label at all


@dataclass(frozen=True)
class Second:
    """The arguments of `crosscal_dependents`.

    Attributes:
        design, y: of the program.
        pairs: (survey, label) of each pair.
        copies: (pair, parent's position among the pair's parents) of each copy.
        terms: names of the columns of phi.
        errors: pair of each error scale.
        rows: catalogue row of each measurement, (n,).
        spikes: (share, offset) of each copy, as found in the differences.
    """

    design: Dependents
    y: np.ndarray
    pairs: tuple[tuple[str, str], ...]
    copies: tuple[tuple[int, int], ...]
    terms: tuple[str, ...]
    errors: tuple[int, ...]
    rows: np.ndarray
    spikes: tuple[tuple[float, float], ...]


def second_stage(prepared: Prepared, posterior: xr.Dataset) -> Second | None:
    """Collect what dependent surveys report for stars whose true label the voters tell.

    Args:
        prepared: the fit.
        posterior: of the voters.

    Returns:
        `Second`, label units; None where no dependent survey has `LEAST` such stars.

    Errors:
        None.

    Example:
        >>> second_stage(tiny_prepared(), tiny_run().posterior) is None  # nothing depends on anything
        True
        >>> second_stage(*tiny_network()).pairs
        (('compiled', 'fe_h'),)
    """
    recipe, cat = prepared.recipe, prepared.catalogue
    found: list[dict[str, np.ndarray]] = []
    pairs: list[tuple[str, str]] = []
    terms: list[str] = []
    weights: list[dict[str, float]] = []
    if not recipe.dependent:
        return None
    for label in cat.labels:
        drawn = {s: d.thinned(FEW_DRAWS) for s, d in label_draws(recipe, posterior, label).items()}
        if not drawn:
            continue
        for survey in recipe.dependent:
            rows = _rows(cat, survey, label)
            truth = true_label(cat, drawn, label, cat.star[rows])
            told = truth.count > 0
            if told.sum() < LEAST:
                continue
            rows, truth = rows[told], truth.rows(told)
            columns = trend_terms(recipe, survey, label, cat.x[cat.star[rows], cat.surveys.index(survey)])
            terms += [name for name in columns.names if name not in terms]
            values, seen = parents_of(recipe, cat, survey, label, cat.star[rows])
            z, var = truth.within()
            found.append({"z": z, "var": var, "phi": columns.values, "rows": rows, "values": values, "seen": seen})
            sd = columns.weights * _scale(recipe, label, columns.groups)
            weights.append(dict(zip(columns.names, sd, strict=True)))
            pairs.append((survey, label))
    return _join(prepared, found, pairs, terms, weights) if pairs else None


def _join(prepared, found, pairs, terms, weights) -> Second:
    recipe, cat = prepared.recipe, prepared.catalogue
    n_parent = max(f["values"].shape[1] for f in found)
    wide = lambda x, n: np.pad(x, ((0, 0), (0, n - x.shape[1])))  # noqa: E731
    phi = []
    for f, w in zip(found, weights, strict=True):
        full = np.zeros((len(f["rows"]), len(terms)))
        full[:, [terms.index(name) for name in w]] = f["phi"]
        phi.append(full)
    rows = np.concatenate([f["rows"] for f in found])
    of = np.repeat(np.arange(len(pairs)), [len(f["rows"]) for f in found])
    copies, begin = [], []
    for p, (f, (_, label)) in enumerate(zip(found, pairs, strict=True)):
        for j in range(f["values"].shape[1]):
            both = f["seen"][:, j]
            spike = spike_of(cat.value[f["rows"]][both] - f["values"][both, j], recipe.labels[label].floor_scale)
            if spike is not None and spike[0] > 0.1:
                copies.append((p, j))
                begin.append(spike)
    error = cat.error[rows]
    errors = [p for p in range(len(pairs)) if np.isfinite(error[of == p]).any()]
    copy_of = np.zeros((len(pairs), n_parent, len(copies)))
    for c, (p, j) in enumerate(copies):
        copy_of[p, j, c] = 1.0
    design = Dependents(
        z=np.concatenate([f["z"] for f in found]), z_var=np.concatenate([f["var"] for f in found]),
        phi=np.concatenate(phi), who=np.eye(len(pairs))[of], err2=np.nan_to_num(error) ** 2,
        parents=np.concatenate([wide(f["values"], n_parent) for f in found]),
        seen=np.concatenate([wide(f["seen"], n_parent) for f in found]),
        unit=np.array([recipe.labels[l].floor_scale for _, l in pairs]),
        prior_sd=np.array([[w.get(name, UNUSED) for name in terms] for w in weights]),
        error_of=np.eye(len(pairs))[:, errors], copy_of=copy_of,
    )  # fmt: skip
    return Second(
        design, cat.value[rows], tuple(pairs), tuple(copies), tuple(terms), tuple(errors), rows, tuple(begin),
    )  # fmt: skip


def _rows(cat: Catalogue, survey: str, label: str) -> np.ndarray:
    return np.flatnonzero((cat.survey == cat.surveys.index(survey)) & (cat.label == cat.labels.index(label)))


def _scale(recipe: Recipe, label: str, groups: list[str]) -> np.ndarray:
    """Prior sd of each column's group; of one that is learnt, its scale."""
    spec = recipe.labels[label]
    sds = {OFFSET: spec.offset_sd or spec.offset_scale}
    sds |= {f"trend{i}": trend.sd or trend.scale for i, trend in enumerate(recipe.trend)}
    return np.array([sds[g] for g in groups])


def second_task(prepared: Prepared, second: Second) -> Task:
    """Where the chains of the second stage start: the posterior's mode, searched from medians and spikes.

    Args:
        prepared: the fit.
        second: as `second_stage` gives it.

    Returns:
        `Task` of `crosscal_dependents`.

    Errors:
        None.

    Example:
        >>> second = second_stage(*tiny_network())
        >>> sorted(second_task(tiny_network()[0], second).start)[:4]
        ['coef', 'copy_odds', 'copy_offset', 'copy_width']
    """
    design, y = second.design, second.y
    spec = prepared.recipe.priors
    mixed = design.seen.any(1)
    middle = (design.parents * design.seen).sum(1) / np.maximum(design.seen.sum(1), 1)
    start: dict[str, np.ndarray] = {
        "coef": np.zeros(design.prior_sd.shape), "share": np.full(len(second.pairs), 0.5),
        "outlier_rate": np.full(len(second.pairs), spec.outlier_rate),
    }  # fmt: skip
    start["floor"], start["mixed_floor"] = 0.5 * np.asarray(design.unit), 0.5 * np.asarray(design.unit)
    start["shift"] = np.zeros(len(second.pairs))
    for p in range(len(second.pairs)):
        here = design.who[:, p] > 0
        for name, at, other in (("floor", here & ~mixed, design.z), ("mixed_floor", here & mixed, middle)):
            if at.sum() >= LEAST:
                d = y[at] - other[at]
                centre = np.median(d)
                start[name][p] = max(1.4826 * np.median(np.abs(d - centre)), 0.1 * design.unit[p])
                if name == "floor":
                    start["coef"][p, 0] = centre
    if second.errors:
        start["error_scale"] = np.ones(len(second.errors))
    if second.copies:
        share, offset = np.array(second.spikes).T
        start |= {
            "copy_odds": share / (1.0 - np.minimum(share, 0.9)), "copy_offset": offset,
            "copy_width": np.full(len(share), 0.3),
        }  # fmt: skip
    priors = DependentPriors(spec.error_scale, spec.outlier_rate)
    folded = ("floor", "mixed_floor", "copy_width")
    task = Task(crosscal_dependents, (design, y), {"priors": priors}, start, fold=folded)
    mode = Mode(task)
    sites = mode(task.args)
    return replace(task, start={k: np.asarray(sites[k]) for k in start}, inverse_mass=mode.inverse_mass())


def second_quantities(
    prepared: Prepared, second: Second, sites: dict[str, np.ndarray], voters: dict[str, np.ndarray],
    posterior: xr.Dataset, probability: np.ndarray | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Enter the second stage's draws beside those of the voters, draw by draw.

    The second stage ran at the voters' mean. In the voters' draw d the true labels are z + dz_d, all of them together,
    and what a dependent survey adds to them is less by the weighted least-squares fit to dz_d.

    Args:
        prepared, second: what was sampled.
        sites: draws of the second stage, each (n_chain, n_draw, ...).
        voters: quantities as `hbcal.design.named_quantities` gives them.
        posterior: the same with named axes.
        probability: of each measurement to be an outlier, (n_measurement,), or None.

    Returns:
        The quantities, with those of the dependent surveys, label units.

    Errors:
        KeyError when a site is missing.

    Example:
        >>> prepared, posterior = tiny_network()
        >>> second = second_stage(prepared, posterior)
        >>> n = posterior.sizes["chain"], posterior.sizes["draw"]
        >>> start = second_task(prepared, second).start
        >>> sites = {name: np.broadcast_to(value, (*n, *value.shape)) for name, value in start.items()}
        >>> voters = {str(name): values.to_numpy() for name, values in posterior.items()}
        >>> found = second_quantities(prepared, second, sites, voters, posterior, None)
        >>> s = prepared.catalogue.surveys.index("compiled")
        >>> bool(np.isfinite(found["offset"][:, :, s]).all()), found["share"].shape[2:]
        (True, (4, 1))
    """
    cat, recipe = prepared.catalogue, prepared.recipe
    out = {k: v.copy() for k, v in voters.items()}
    lead = sites["coef"].shape[:2]
    n_survey, n_label = len(cat.surveys), len(cat.labels)
    for name in ("share", "inherited_offset", "inherited_floor"):
        out[name] = np.full((*lead, n_survey, n_label), np.nan)
    for name in ("copy_odds", "copy_offset", "copy_sd"):
        out[name] = np.full((*lead, n_survey, n_label, n_survey), np.nan)
    if "outlier_rate" not in out:
        out["outlier_rate"] = np.full((*lead, n_survey, n_label), np.nan)
    where = {name: i for i, name in enumerate(prepared.terms)}
    for p, (survey, label) in enumerate(second.pairs):
        s, l = cat.surveys.index(survey), cat.labels.index(label)
        moved = _moved(prepared, second, p, sites, posterior, probability)
        for k, name in enumerate(second.terms):
            if second.design.prior_sd[p, k] == UNUSED:
                continue
            draws = sites["coef"][:, :, p, k] - moved[:, :, k]
            if name == OFFSET:
                out["offset"][:, :, s, l] = draws
            else:
                out["trend"][:, :, s, l, where[name] - 1] = draws
        out["error_scale"][:, :, s, l] = 1.0
        out["floor"][:, :, s, l] = sites["floor"][:, :, p]
        out["share"][:, :, s, l] = sites["share"][:, :, p]
        out["inherited_offset"][:, :, s, l] = sites["shift"][:, :, p]
        out["inherited_floor"][:, :, s, l] = sites["mixed_floor"][:, :, p]
        out["outlier_rate"][:, :, s, l] = sites["outlier_rate"][:, :, p]
    for e, p in enumerate(second.errors):
        s, l = (names.index(name) for names, name in zip((cat.surveys, cat.labels), second.pairs[p], strict=True))
        out["error_scale"][:, :, s, l] = sites["error_scale"][:, :, e]
    for c, (p, j) in enumerate(second.copies):
        survey, label = second.pairs[p]
        at = (
            cat.surveys.index(survey),
            cat.labels.index(label),
            cat.surveys.index(recipe.surveys[survey].depends_on[j]),
        )
        out["copy_odds"][:, :, *at] = sites["copy_odds"][:, :, c]
        out["copy_offset"][:, :, *at] = sites["copy_offset"][:, :, c]
        width = NARROW * sites["copy_width"][:, :, c] * sites["mixed_floor"][:, :, p]
        out["copy_sd"][:, :, *at] = np.hypot(GRAIN * second.design.unit[p], width)
    return out


def _moved(prepared, second, p, sites, posterior, probability) -> np.ndarray:
    """(n_chain, n_draw, n_term): weighted fit of phi to what each draw of the voters adds to the stars' true labels."""
    cat, design = prepared.catalogue, second.design
    _, label = second.pairs[p]
    here = np.flatnonzero(design.who[:, p])
    stars = cat.star[second.rows[here]]
    mixed = design.seen[here].any(1)
    middle = lambda name: sites[name][:, :, p].mean()  # noqa: E731
    own_noise = middle("floor") ** 2 + design.err2[here]
    factor = np.where(mixed, 1.0 - middle("share"), 1.0)
    weight = factor**2 / (factor**2 * design.z_var[here] + np.where(mixed, middle("mixed_floor") ** 2, own_noise))
    phi = design.phi[here]
    solve = np.linalg.solve((phi.T * weight) @ phi + np.diag(design.prior_sd[p] ** -2), phi.T * weight)
    # z = sum_s w_s (y_s - shift_s) / W: what it moves by is linear in the voters' coefficients
    n_star = cat.n_star
    total = np.zeros(n_star)
    parts = []
    for name, d in label_draws(prepared.recipe, posterior, label).items():
        rows = _rows(cat, name, label)
        x = cat.x[cat.star[rows], cat.surveys.index(name)]
        thin = d.thinned(FEW_DRAWS)
        w = 1.0 / (thin.noise(x, cat.error[rows]) ** 2).mean(1)
        if probability is not None:
            w = w * (1.0 - (1.0 - 1.0 / INFLATION) * np.nan_to_num(probability[rows]))
        np.add.at(total, cat.star[rows], w)
        if d.coefficient is not None:
            parts.append((name, cat.star[rows], w, d.terms(x)))
    lookup = np.zeros((n_star, phi.shape[1]))
    np.add.at(lookup, stars, solve.T)  # a star may be there twice: both its rows pull
    moved = np.zeros((*sites["coef"].shape[:2], phi.shape[1]))
    one = posterior.sel(label=label)
    for name, star, w, terms in parts:
        gain = (lookup[star] * (w / total[star])[:, None]).T @ terms.values  # (n_term, n_term of the voter)
        offset = one["offset"].sel(survey=name).to_numpy()[..., None]
        names = terms.names[1:]
        trend = one["trend"].sel(survey=name, term=names).to_numpy() if names else np.zeros((*offset.shape[:2], 0))
        coefficient = np.concatenate([offset, np.nan_to_num(trend)], axis=2)  # on a scale of its own: no trend
        moved -= (coefficient - coefficient.mean((0, 1))) @ gain.T
    return moved
