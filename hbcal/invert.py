"""Put rows of a table on the common scale where a survey's reports depend on the star's true labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from hbcal.apply import LEVELS, Applied, drawn_of
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Target
from hbcal.draws import Draws, label_draws
from hbcal.fitted import answerable, explain
from hbcal.groups import depends_on_true
from hbcal.mixture import Mixture
from hbcal.recipe import Recipe
from hbcal.solve import Measured, Solved, solve, solve_stars
from hbcal.support import Edges

CHUNK, FEW = 512, 16


def invert_draws(
    recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, target: Target, scale: Mapping[str, str]
) -> Applied:
    """z = (I + beta J)^-1 (y - d), mixed over the posterior draws.

    Per row and draw the true labels are N(z, (I + beta J)^-1 V (I + beta J)^-T), flat in z: the populations of the fit
    are those of its stars. ``err_star``^2 is the mean of that variance, ``err_calibration``^2 the variance of z over
    the draws. A row lacks an answer where its label depends on a true label that the row does not report.

    Args:
        recipe, posterior, catalogue: of the run.
        target: the rows.
        scale: label -> what it is anchored on.

    Returns:
        `hbcal.apply.Applied`, rows in the order of the target.

    Errors:
        None: rows without an answer say why in ``reason``.

    Example:
        >>> run = tiny_run()
        >>> applied = invert_draws(run.recipe, run.posterior, run.catalogue, tiny_target(), run.scale)
        >>> usual = run.apply(tiny_target(), "s1")  # no trend there is in a true label: the same
        >>> bool(np.allclose(applied.columns["fe_h"], usual.columns["fe_h"]))
        True
    """
    n_row = len(target.star)
    drawn = drawn_of(recipe, posterior, target)
    labels = tuple(drawn)
    at = [list(recipe.labels).index(label) for label in labels]
    good, why, far = _good(recipe, catalogue, target, drawn)
    value = np.full((n_row, len(labels)), np.nan)
    covariance = np.full((n_row, len(labels), len(labels)), np.nan)
    suffixes = ("", "_err", "_err_star", "_err_calibration", *(f"_{q}" for q in LEVELS))
    columns = {label + suffix: np.full(n_row, np.nan) for label in labels for suffix in suffixes}
    for start in range(0, n_row, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n_row))
        solved = _solved(drawn, target, rows, good)
        z = solved.mean[..., at]
        value[rows] = z.mean(1)
        away = z - z.mean(1, keepdims=True)
        shared = np.einsum("idk,idl->ikl", away, away) / z.shape[1]
        own = solved.covariance[:, :, at][..., at].mean(1)
        covariance[rows] = own + shared
        for j, label in enumerate(labels):
            columns[label][rows] = value[rows, j]
            parts = {"_err": own + shared, "_err_star": own, "_err_calibration": shared}
            for suffix, matrix in parts.items():
                columns[label + suffix][rows] = np.sqrt(matrix[:, j, j])
            told = np.isfinite(value[rows, j])
            mixture: Mixture = solved.label(at[j]).rows(told)
            for name, q in zip(LEVELS, mixture.quantiles(tuple(LEVELS.values())).T, strict=True):
                columns[f"{label}_{name}"][rows[told]] = q
    columns["extrapolated"] = _outside(recipe, posterior, catalogue, drawn, columns, good, far)
    columns["reason"] = explain(target, why, np.any(list(good.values()), axis=0))
    units = {n: recipe.unit(l) for l in labels for n in columns if n == l or n.startswith(f"{l}_")}
    return Applied(target.star, columns, units, value, covariance, labels, target.survey, scale)


def inverted_covariance(
    recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, target: Target, label: str
) -> np.ndarray:
    """Covariance between stars: what the shared calibration causes, plus each star's own noise on the diagonal.

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
        >>> shared = inverted_covariance(run.recipe, run.posterior, run.catalogue, tiny_target(), "fe_h")
        >>> bool(np.allclose(shared, run.covariance(tiny_target(), "s1", "fe_h")))  # no trend there is in a true label
        True
    """
    drawn = drawn_of(recipe, posterior, target, label)
    good, l = _good(recipe, catalogue, target, drawn)[0], list(recipe.labels).index(label)
    parts = [
        _solved(drawn, target, np.arange(start, min(start + CHUNK, len(target.star))), good).label(l)
        for start in range(0, len(target.star), CHUNK)
    ]
    z, sd = (np.concatenate([getattr(part, name)[..., 0] for part in parts]) for name in ("mean", "sd"))
    z = z - z.mean(1, keepdims=True)
    return z @ z.T / z.shape[1] + np.diag((sd**2).mean(1))


def _good(recipe: Recipe, catalogue: Catalogue, target: Target, drawn: Mapping[str, Draws]):
    """Per label: which rows have an answer, why the others have none, how far outside the fitted stars each lies."""
    good, why, far = {}, {}, {}
    for label, d in drawn.items():
        good[label], why[label], far[label] = answerable(recipe, catalogue, target, d)
    changed = True
    while changed:
        changed = False
        for label in drawn:
            for name in depends_on_true(recipe, target.survey, label):
                lost = good[label] & ~good.get(name, np.zeros(len(target.star), bool))
                changed |= bool(lost.any())
                why[label][lost] = f"no {name}, on which {label} depends"
                good[label] = good[label] & ~lost
    return good, why, far


def _solved(drawn: Mapping[str, Draws], target: Target, rows: np.ndarray, good: Mapping[str, np.ndarray]) -> Solved:
    measured = []
    for label, d in drawn.items():
        here = np.flatnonzero(good[label][rows])
        at = rows[here]
        measured.append(Measured(d, here, target.value[label][at], target.error[label][at], target.x[at]))
    return solve(measured, len(rows))


def _outside(recipe, posterior, catalogue, drawn, columns, good, far) -> np.ndarray:
    """How far each row lies outside the fitted stars, in observed covariates and in true labels."""
    outside = np.full(len(columns[next(iter(drawn))]), np.nan)
    for label, d in drawn.items():
        outside = np.where(good[label], np.fmax(outside, far[label]), outside)
        needs = depends_on_true(recipe, d.survey, label)
        if not needs or not good[label].any():
            continue
        learnt = _learnt_from(recipe, posterior, catalogue, d.survey, label)
        for name in needs:
            z = learnt.label(list(recipe.labels).index(name)).centre()
            edges = Edges(float(z.min()), float(z.max()), False)
            beyond = edges.beyond(columns[name], columns[f"{name}_err_star"])
            outside = np.where(good[label], np.fmax(outside, beyond), outside)
    return outside


def _learnt_from(recipe, posterior, catalogue, survey: str, label: str) -> Solved:
    """True labels of the stars from which a survey's response in a label was learnt."""
    every = [d.thinned(FEW) for l in recipe.labels for d in label_draws(recipe, posterior, l).values()]
    at = (catalogue.survey == catalogue.surveys.index(survey)) & (catalogue.label == catalogue.labels.index(label))
    solved = solve_stars(catalogue, every, np.unique(catalogue.star[at]))
    return solved.rows(solved.count[:, list(recipe.labels).index(label)] > 1)
