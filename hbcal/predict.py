"""What would a survey report for a star? The posterior predictive of a new measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Query
from hbcal.draws import CHUNK, Draws, draws_of, quantiles
from hbcal.recipe import Recipe

LEVELS = {"q05": 0.05, "q16": 0.1587, "q50": 0.5, "q84": 0.8413, "q95": 0.95}


@dataclass(frozen=True)
class Predicted:
    """Answers in the order of the questions: name -> (n_row,), label units; ``reason`` where there is no answer."""

    columns: Mapping[str, np.ndarray]


def predict_draws(recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, query: Query) -> Predicted:
    """y_new = z_i + delta_s + beta_s . phi(x_is) + noise, with z_i from every measurement of the star in the run.

    Per draw, z_i ~ N(sum_t w_t r_t / W, 1 / W) with r_t = y_t - shift_t and w_t = 1 / noise_t^2; the new measurement
    adds its own shift and noise. A row without an error is given the survey's median error.

    Args:
        recipe, posterior, catalogue: of the run.
        query: star, survey, label, error per row.

    Returns:
        `Predicted` with star, survey, label, mean, sd, q05, q16, q50, q84, q95, reason.

    Errors:
        None: rows without an answer say why.

    Example:
        >>> run = tiny_run()
        >>> names = (np.array([name], dtype=object) for name in ("star01", "s2", "fe_h"))
        >>> query = Query(*names, np.array([np.nan]))  # no error: the survey's typical one
        >>> list(predict_draws(run.recipe, run.posterior, run.catalogue, query).columns)
        ['star', 'survey', 'label', 'mean', 'sd', 'q05', 'q16', 'q50', 'q84', 'q95', 'reason']
    """
    n_row = len(query.star)
    out = {name: np.full(n_row, np.nan) for name in ("mean", "sd", *LEVELS)}
    reason = np.full(n_row, "", dtype=object)
    number = {str(star): i for i, star in enumerate(catalogue.stars)}
    star = np.array([number.get(str(s), -1) for s in query.star])
    reason[star < 0] = "star not in the run"
    for row, (survey, label) in enumerate(zip(query.survey, query.label, strict=True)):
        if survey not in catalogue.surveys:
            reason[row] = f"survey {survey!r} not in the run"
        elif label not in catalogue.labels:
            reason[row] = f"label {label!r} not in the run"
    open_rows = reason == ""
    pairs = {(str(s), str(l)) for s, l in zip(query.survey[open_rows], query.label[open_rows], strict=True)}
    for label in sorted({l for _, l in pairs}):
        drawn = {s: d for s in catalogue.surveys if (d := draws_of(recipe, posterior, s, label)) is not None}
        for survey in sorted({s for s, l in pairs if l == label}):
            rows = np.flatnonzero(open_rows & (query.survey == survey) & (query.label == label))
            if survey not in drawn:
                reason[rows] = f"{label} of {survey} was not calibrated"
                continue
            for start in range(0, len(rows), CHUNK):
                at = rows[start : start + CHUNK]
                reason[at] = _answer(catalogue, drawn, survey, label, star[at], query.error[at], at, out)
    columns = {"star": query.star, "survey": query.survey, "label": query.label, **out, "reason": reason}
    return Predicted(columns)


def true_label(
    catalogue: Catalogue, drawn: Mapping[str, Draws], label: str, star: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior of the true label of some stars, per draw.

    Args:
        catalogue: of the run.
        drawn: survey -> draws of that label.
        label: which.
        star: star numbers, (n,).

    Returns:
        Mean and variance of z, each (n, n_draw), label unit (squared); how many measurements each stems from, (n,).

    Errors:
        None: a star without measurements has NaN.

    Example:
        >>> run = tiny_run()
        >>> drawn = {"s1": draws_of(run.recipe, run.posterior, "s1", "fe_h")}
        >>> star = run.catalogue.star[run.catalogue.survey == 1][:3]
        >>> mean, var, count = true_label(run.catalogue, drawn, "fe_h", star)
        >>> mean.shape, count.tolist()
        ((3, 400), [1, 1, 1])
    """
    n_draw = len(next(iter(drawn.values())).error_scale)
    weight, weighted = np.zeros((len(star), n_draw)), np.zeros((len(star), n_draw))
    count = np.zeros(len(star), int)
    wanted = np.unique(star)
    rows = np.flatnonzero((catalogue.label == catalogue.labels.index(label)) & np.isin(catalogue.star, wanted))
    total, moment = np.zeros((len(wanted), n_draw)), np.zeros((len(wanted), n_draw))
    number = np.zeros(len(wanted), int)
    for survey, d in drawn.items():
        s = catalogue.surveys.index(survey)
        at = rows[catalogue.survey[rows] == s]
        if not at.size:
            continue
        x = catalogue.x[catalogue.star[at], s]
        w = 1.0 / d.noise(x, catalogue.error[at]) ** 2
        r = catalogue.value[at, None] - d.shift(x)
        where = np.searchsorted(wanted, catalogue.star[at])
        np.add.at(total, where, w)
        np.add.at(moment, where, w * r)
        np.add.at(number, where, 1)
    place = np.searchsorted(wanted, star)
    weight, weighted, count = total[place], moment[place], number[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        return weighted / weight, 1.0 / weight, count


def _answer(catalogue, drawn, survey, label, star, error, at, out) -> np.ndarray:
    """Fill the rows `at` of `out`; returns the reasons."""
    reason = np.full(len(star), "", dtype=object)
    d, s, l = drawn[survey], catalogue.surveys.index(survey), catalogue.labels.index(label)
    mean, var, count = true_label(catalogue, drawn, label, star)
    reason[count == 0] = f"no measurement of {label} for this star"
    own = catalogue.error[(catalogue.survey == s) & (catalogue.label == l)]
    typical = np.nanmedian(own) if np.isfinite(own).any() else np.nan
    x = catalogue.x[star, s]
    mean = mean + d.shift(x)
    sd = np.sqrt(var + d.noise(x, np.where(np.isnan(error), typical, error)) ** 2)
    covariates = sorted({c for names in d.terms(x).covariates for c in names})
    for c in covariates:
        bad = np.isnan(x[:, catalogue.covariates.index(c)]) & (reason == "")
        reason[bad] = f"covariate {c} of {survey} is missing for this star"
    ok = reason == ""
    out["mean"][at[ok]] = mean[ok].mean(1)
    out["sd"][at[ok]] = np.sqrt((sd[ok] ** 2).mean(1) + mean[ok].var(1))
    if ok.any():
        for name, q in zip(LEVELS, quantiles(mean[ok], sd[ok], tuple(LEVELS.values())).T, strict=True):
            out[name][at[ok]] = q
    return reason
