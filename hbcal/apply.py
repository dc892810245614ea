"""Put rows of a table on the common scale, with their covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Target
from hbcal.design import with_clusters
from hbcal.draws import Draws, draws_of, label_draws
from hbcal.mixture import CHUNK, Mixture
from hbcal.predict import told_by, true_label
from hbcal.recipe import Recipe
from hbcal.support import Edges, Support, support_of
from hbcal.terms import floor_terms, standardised, trend_terms

LEVELS = {"q025": 0.025, "q16": 0.1587, "q84": 0.8413, "q975": 0.975}


@dataclass(frozen=True)
class Applied:
    """Calibrated rows, in the order they came.

    Attributes:
        star: ids, (n_row,).
        columns: name -> (n_row,); per label the value, its errors and quantiles, then ``extrapolated`` and ``reason``.
        units: name -> unit.
        value, covariance: (n_row, n_label), (n_row, n_label, n_label), label units.
        labels: names on the label axis.
        survey, scale: which survey was calibrated, and what each label is anchored on.
    """

    star: np.ndarray
    columns: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    value: np.ndarray
    covariance: np.ndarray
    labels: tuple[str, ...]
    survey: str
    scale: Mapping[str, str]

    def to_dataset(self) -> xr.Dataset:
        """The shared label schema: value(star, label), covariance(star, label, label_2), extrapolation, flag."""
        data: dict[str, Any] = {
            "value": (("star", "label"), self.value),
            "covariance": (("star", "label", "label_2"), self.covariance),
            "extrapolation": ("star", self.columns["extrapolated"]),
            "flag": ("star", np.asarray(self.columns["reason"]).astype(str)),
        }
        names = list(self.labels)
        coords = {"star": self.star.astype(str), "label": names, "label_2": names}
        units = [self.units[label] for label in names]
        attrs = {"survey": self.survey, "units": ", ".join(units), "scale": str(dict(self.scale))}
        return xr.Dataset(data, coords=coords, attrs=attrs)


def fitted_support(recipe: Recipe, catalogue: Catalogue, survey: str, label: str) -> dict[Any, Support]:
    """Support of the fitted stars of a survey's label, per combination of the categories its terms use.

    Args:
        recipe, catalogue: the run's.
        survey, label: which.

    Returns:
        Combination of level numbers -> `Support` over the numeric covariates used.

    Errors:
        ValueError for names the catalogue does not have.

    Example:
        >>> run = tiny_run()
        >>> support = fitted_support(run.recipe, run.catalogue, "s1", "fe_h")[()]  # no category: one cell
        >>> support.low.shape, support.distance(np.zeros((1, 2))).tolist()
        ((2,), [0.0])
    """
    s, l = catalogue.surveys.index(survey), catalogue.labels.index(label)
    here = (catalogue.survey == s) & (catalogue.label == l)
    stars = np.unique(catalogue.star[here])
    joined, _ = with_clusters(recipe, catalogue)  # a cluster ties a star, too
    n_seen = np.bincount(joined.star[joined.label == l], minlength=catalogue.n_star)
    stars = stars[n_seen[stars] > 1]
    x = catalogue.x[stars, s]
    numeric, categories = used_covariates(recipe, survey, label)
    u = standardised(recipe, x)
    cells = np.stack([u[c] for c in categories], axis=1) if categories else np.zeros((len(x), 0))
    points = np.stack([u[c] for c in numeric], axis=1) if numeric else np.zeros((len(x), 0))
    return {tuple(cell): support_of(points[(cells == cell).all(1)]) for cell in np.unique(cells, axis=0)}


def fitted_edges(recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, survey: str, label: str) -> Edges:
    """Range of the true labels of a survey's fitted stars, as the other sources measure them.

    Args:
        recipe, posterior, catalogue: of the run.
        survey, label: which.

    Returns:
        `Edges`, label unit.

    Errors:
        ValueError for names the catalogue does not have.

    Example:
        >>> run = tiny_run()
        >>> edges = fitted_edges(run.recipe, run.posterior, run.catalogue, "s1", "fe_h")
        >>> edges.predictive  # no label that s1 reports is among its covariates
        False
    """
    numeric, _ = used_covariates(recipe, survey, label)
    own = any(not catalogue.star_level[catalogue.covariates.index(c)] for c in numeric)
    if not own:
        return Edges(-np.inf, np.inf, False)
    told = told_by(recipe, label_draws(recipe, posterior, label), survey, label)
    others = {s: d.thinned(16) for s, d in told.items() if s != survey}
    if not others:  # on a scale of its own
        return Edges(-np.inf, np.inf, False)
    s, l = catalogue.surveys.index(survey), catalogue.labels.index(label)
    stars = np.unique(catalogue.star[(catalogue.survey == s) & (catalogue.label == l)])
    z = true_label(catalogue, others, label, stars).z.centre()
    z = z[np.isfinite(z)]
    return Edges(float(z.min()), float(z.max()), True) if z.size else Edges(-np.inf, np.inf, False)


def used_covariates(recipe: Recipe, survey: str, label: str) -> tuple[list[str], list[str]]:
    """Numeric covariates and categories that the terms of a survey's label depend on, those that are observed.

    Args:
        recipe: any.
        survey, label: which.

    Returns:
        Their names.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> used_covariates(load_recipe("kepler_giants"), "apogee", "logg")
        (['teff', 'logg', 'fe_h', 'alpha_fe'], ['evstate'])
    """
    empty = np.zeros((1, len(recipe.covariates)))
    used: dict[str, None] = {}
    for terms in (trend_terms, floor_terms):
        for names in terms(recipe, survey, label, empty).covariates:
            used |= dict.fromkeys(names)
    used = {c: None for c in used if not recipe.covariates[c].true}
    return [c for c in used if not recipe.covariates[c].levels], [c for c in used if recipe.covariates[c].levels]


def apply_draws(
    recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, target: Target, scale: Mapping[str, str]
) -> Applied:
    """z = y - delta - beta . phi(x), mixed over the posterior draws.

    Per row and draw d the true label is N(y - shift_d, noise_d^2). The variance is split into ``err_star``^2, the mean
    of noise_d^2 (independent between stars), and ``err_calibration``^2, the variance of shift_d (shared by all stars).
    Where the program knows outliers, the errors are those of a measurement that is none; the quantiles include that it
    may be one.

    Args:
        recipe, posterior, catalogue: of the run.
        target: the rows.
        scale: label -> what it is anchored on.

    Returns:
        `Applied`, rows in the order of the target.

    Errors:
        None: rows without an answer say why in ``reason``.

    Example:
        >>> run = tiny_run()
        >>> applied = apply_draws(run.recipe, run.posterior, run.catalogue, tiny_target(), run.scale)
        >>> list(applied.columns)[:4]
        ['fe_h', 'fe_h_err', 'fe_h_err_star', 'fe_h_err_calibration']
        >>> applied.value.shape, applied.covariance.shape
        ((3, 1), (3, 1, 1))
    """
    n_row = len(target.star)
    drawn = drawn_of(recipe, posterior, target)
    labels = tuple(drawn)
    value = np.full((n_row, len(labels)), np.nan)
    covariance = np.full((n_row, len(labels), len(labels)), np.nan)
    columns: dict[str, np.ndarray] = {}
    outside = np.zeros(n_row)
    answered = np.zeros(n_row, bool)
    for label in labels:
        for suffix in ("", "_err", "_err_star", "_err_calibration", *(f"_{q}" for q in LEVELS)):
            columns[label + suffix] = np.full(n_row, np.nan)
    why: dict[str, np.ndarray] = {}
    edge: dict[str, np.ndarray] = {}
    for label, d in drawn.items():
        ok, why[label], far = answerable(recipe, catalogue, target, d)
        edges = fitted_edges(recipe, posterior, catalogue, survey=d.survey, label=label)
        found, edge[label] = _columns(d, target, label, ok, edges)
        columns |= found
        beyond = edges.beyond(columns[label], columns[f"{label}_err_star"])
        outside = np.fmax(outside, np.fmax(far, beyond))
        answered |= ok
    for start in range(0, n_row, CHUNK):
        rows = slice(start, start + CHUNK)
        _covariances(drawn, target, rows, columns, edge, value, covariance)
    columns["extrapolated"] = np.where(answered, outside, np.nan)
    columns["reason"] = explain(target, why, answered)
    units = {
        name: recipe.unit(label)
        for label in labels
        for name in columns
        if name == label or name.startswith(f"{label}_")
    }
    return Applied(target.star, columns, units, value, covariance, labels, target.survey, scale)


def drawn_of(recipe: Recipe, posterior: xr.Dataset, target: Target, label: str = "") -> dict[str, Draws]:
    """Draws of the calibration of every label that rows report.

    Args:
        recipe, posterior: of the run.
        target: the rows.
        label: one that must be among them; "" for none.

    Returns:
        Label -> `Draws`; labels that the run did not calibrate are not in it.

    Errors:
        HbcalError for a `label` that is not among them.

    Example:
        >>> list(drawn_of(tiny_run().recipe, tiny_run().posterior, tiny_target()))
        ['fe_h']
    """
    drawn = {name: d for name in target.value if (d := draws_of(recipe, posterior, target.survey, name)) is not None}
    if label and label not in drawn:
        raise HbcalError(f"The run did not calibrate {label!r} of survey {target.survey!r}, or the table lacks it.")
    return drawn


def explain(target: Target, why: Mapping[str, np.ndarray], answered: np.ndarray) -> np.ndarray:
    """Why a row, or a label of it, has no answer.

    Args:
        target: the rows.
        why: label -> reason of each row, (n_row,), "" where it has an answer.
        answered: rows with an answer for any label.

    Returns:
        (n_row,) str.

    Errors:
        None.

    Example:
        >>> explain(tiny_target(), {"fe_h": np.array(["", "no fe_h", ""], object)}, np.ones(3, bool)).tolist()
        ['', 'no fe_h', '']
    """
    reason = np.array(target.reason, dtype=object)
    for i in range(len(reason)):
        if not reason[i]:
            said = list(dict.fromkeys(w[i] for w in why.values() if w[i]))
            # a long table has one label per row: the other labels' absence is no reason
            reason[i] = "" if answered[i] and target.one_label else "; ".join(said)
    return reason


def answerable(
    recipe: Recipe, catalogue: Catalogue, target: Target, d: Draws
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows have an answer, why the others have none, and how far outside the fitted stars each lies.

    Args:
        recipe, catalogue: of the run.
        target: the rows.
        d: draws of the label.

    Returns:
        (n_row,) bool, (n_row,) str, (n_row,) dimensionless, in observed covariates; NaN without an answer.

    Errors:
        None.

    Example:
        >>> from hbcal.draws import draws_of
        >>> run = tiny_run()
        >>> d = draws_of(run.recipe, run.posterior, "s1", "fe_h")
        >>> answerable(run.recipe, run.catalogue, tiny_target(), d)[0].tolist()
        [True, True, True]
    """
    n_row = len(target.star)
    y = target.value[d.label]
    why = np.full(n_row, "", dtype=object)
    far = np.zeros(n_row)
    why[np.isnan(y)] = f"no {d.label}"
    for row in np.flatnonzero(target.impossible.get(d.label, np.zeros(n_row, bool))):
        why[row] = f"{d.label} outside its range"
    if d.coefficient is None:
        return why == "", why, far
    numeric, categories = used_covariates(recipe, d.survey, d.label)
    names = list(recipe.covariates)
    for c in numeric + categories:
        x = target.x[:, names.index(c)]
        why[(why == "") & np.isnan(x)] = f"{c} missing"
        if c in categories:
            why[(why == "") & (x < 0)] = f"{c} not a known level"
    u = standardised(recipe, target.x)
    supports = fitted_support(recipe, catalogue, d.survey, d.label)
    cells = np.stack([u[c] for c in categories], axis=1) if categories else np.zeros((n_row, 0))
    points = np.stack([u[c] for c in numeric], axis=1) if numeric else np.zeros((n_row, 0))
    open_rows = why == ""
    for cell in np.unique(cells[open_rows], axis=0):
        rows = open_rows & (cells == cell).all(1)
        if tuple(cell) in supports:
            far[rows] = supports[tuple(cell)].distance(points[rows])
        else:
            what = ", ".join(
                f"{c} {recipe.covariates[c].all_levels[int(k)]!r}" for c, k in zip(categories, cell, strict=True)
            )
            why[rows] = f"no fitted star has {what}"
    return why == "", why, np.where(why == "", far, np.nan)


def _columns(
    d: Draws, target: Target, label: str, ok: np.ndarray, edges: Edges
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Value, star error and quantiles of the rows that have an answer; and the edge errors, (n_row, 2)."""
    rows = np.flatnonzero(ok)
    out = {s: np.full(len(ok), np.nan) for s in (label, f"{label}_err_star", *(f"{label}_{q}" for q in LEVELS))}
    edge = np.full((len(ok), 2), np.nan)
    for start in range(0, len(rows), CHUNK):
        at = rows[start : start + CHUNK]
        x, e = target.x[at], target.error[label][at]
        mean, sd = target.value[label][at, None] - d.shift(x), d.noise(x, e)
        out[label][at] = mean.mean(1)
        out[f"{label}_err_star"][at] = np.sqrt((sd**2).mean(1))
        edge[at] = np.stack(edges.errors(out[label][at], out[f"{label}_err_star"][at]), axis=1)
        wide = np.sqrt(sd**2 + (edge[at] ** 2).sum(1)[:, None])
        whole = Mixture.of_draws(mean, wide).blunders(wide, d.rate)
        for name, q in zip(LEVELS, whole.quantiles(tuple(LEVELS.values())).T, strict=True):
            out[f"{label}_{name}"][at] = q
    return out, edge


def _covariances(drawn, target, rows, columns, edge, value, covariance) -> None:
    """Fill value and covariance(star, label, label_2): star part on the diagonal, calibration part everywhere."""
    shifts = []
    for j, (label, d) in enumerate(drawn.items()):
        good = np.isfinite(columns[label][rows])
        shift = np.where(good[:, None], d.shift(np.where(good[:, None], target.x[rows], 0.0)), np.nan)
        shifts.append(shift - shift.mean(1, keepdims=True))
        value[rows, j] = columns[label][rows]
    stacked = np.stack(shifts, axis=1)
    shared = np.einsum("ild,imd->ilm", stacked, stacked) / stacked.shape[-1]
    for j, label in enumerate(drawn):
        shared[:, j, j] += (edge[label][rows] ** 2).sum(1)
        columns[f"{label}_err_calibration"][rows] = np.sqrt(shared[:, j, j])
        shared[:, j, j] += columns[f"{label}_err_star"][rows] ** 2
        columns[f"{label}_err"][rows] = np.sqrt(shared[:, j, j])
    covariance[rows] = shared


def calibration_covariance(
    recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, target: Target, label: str
) -> np.ndarray:
    """Covariance between stars: what the shared calibration causes, plus each star's own noise on the diagonal.

    C_ij = Cov(shift_i, shift_j) over the draws + the edge errors of the stars at the same edge + delta_ij err_star_i^2.

    Args:
        recipe, posterior, catalogue: of the run.
        target: the rows.
        label: which.

    Returns:
        (n_row, n_row), label unit squared; NaN for rows without an answer. Its diagonal is ``<label>_err`` squared.

    Errors:
        HbcalError for a label the run did not calibrate.

    Example:
        >>> run = tiny_run()
        >>> shared = calibration_covariance(run.recipe, run.posterior, run.catalogue, tiny_target(), "fe_h")
        >>> shared.shape, bool((np.linalg.eigvalsh(shared) > 0).all())
        ((3, 3), True)
    """
    d = drawn_of(recipe, posterior, target, label)[label]
    ok = answerable(recipe, catalogue, target, d)[0]
    found, edge = _columns(d, target, label, ok, fitted_edges(recipe, posterior, catalogue, target.survey, label))
    shift = d.shift(target.x)
    shift = np.where(ok[:, None], shift - shift.mean(1, keepdims=True), np.nan)
    return shift @ shift.T / shift.shape[1] + edge @ edge.T + np.diag(found[f"{label}_err_star"] ** 2)
