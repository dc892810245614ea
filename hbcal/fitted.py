"""Where a run can answer: the stars it was fitted to, and why a row lies outside them or has no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Target
from hbcal.design import with_clusters
from hbcal.draws import Draws, label_draws
from hbcal.predict import told_by, true_label
from hbcal.recipe import Recipe
from hbcal.support import Edges, Support, support_of
from hbcal.terms import floor_terms, standardised, trend_terms


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
