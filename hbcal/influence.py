"""Influence of each source: where the zero points would lie without it, told without sampling again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np
import xarray as xr

from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import overlap
from hbcal.design import Prepared, anchors_of, named_quantities, prepare, voting
from hbcal.numerics.gauge import regauge
from hbcal.problem import pose
from hbcal.programs.crosscal import draw_coefficients
from hbcal.recipe import Recipe
from hbcal.terms import OFFSET


@dataclass(frozen=True)
class Rest:
    """What is left of a fit when a source goes.

    Attributes:
        prepared: the fit of the rest; None where nothing can be fitted.
        reasons: label -> why its scale hangs in the air.
    """

    prepared: Prepared | None
    reasons: dict[str, str]


def without(recipe: Recipe, catalogue: Catalogue, survey: str) -> Catalogue:
    """The catalogue as it would be had a survey never reported: its consensus covariates are those of the rest.

    Args:
        recipe: says which covariates are a consensus.
        catalogue: of the fit, label units.
        survey: the one that goes.

    Returns:
        `Catalogue` with the same stars and names.

    Errors:
        ValueError for a survey the catalogue does not have.

    Example:
        >>> sky = tiny_sky().catalogue
        >>> sorted(set(without(tiny_prepared().recipe, sky, "s1").survey.tolist()))
        [0, 2]
    """
    left = catalogue.select(catalogue.survey != catalogue.surveys.index(survey))
    x = left.x.copy()
    for c, name in enumerate(left.covariates):
        label = recipe.covariates[name].consensus
        if label:
            x[:, :, c] = _consensus(left, label)[:, None]
    return replace(left, x=x)


def _consensus(cat: Catalogue, label: str) -> np.ndarray:
    """Median over the surveys of each star's mean value, (n_star,); NaN where nobody reports the label."""
    rows = np.flatnonzero(cat.label == cat.labels.index(label))
    total, count = np.zeros((cat.n_star, len(cat.surveys))), np.zeros((cat.n_star, len(cat.surveys)))
    np.add.at(total, (cat.star[rows], cat.survey[rows]), cat.value[rows])
    np.add.at(count, (cat.star[rows], cat.survey[rows]), 1.0)
    out = np.full(cat.n_star, np.nan)
    some = count.any(axis=1)
    mean = np.where(count[some] > 0, total[some] / np.maximum(count[some], 1.0), np.nan)
    out[some] = np.nanmedian(mean, axis=1)
    return out


def rest_of(prepared: Prepared, survey: str) -> Rest:
    """The fit without a source: what is tied still, and what would hang in the air.

    Args:
        prepared: the whole fit.
        survey: the one that goes.

    Returns:
        `Rest`.

    Errors:
        ValueError for a survey the catalogue does not have.

    Example:
        >>> rest_of(tiny_prepared(), "s0").reasons["fe_h"]
        's0 is the only anchor of fe_h: without it the scale hangs in the air'
        >>> rest_of(tiny_prepared(), "s1").prepared.overlap.anchored
        {'fe_h': ('s0',)}
    """
    recipe = prepared.recipe
    cat = without(recipe, prepared.catalogue, survey)
    anchors, votes, reasons = anchors_of(recipe), voting(recipe, cat), {}
    for label in prepared.overlap.fitted:
        if prepared.overlap.anchored[label] == (survey,):
            reasons[label] = f"{survey} is the only anchor of {label}: without it the scale hangs in the air"
            continue
        try:
            overlap(cat.select(votes & (cat.label == cat.labels.index(label))), anchors, set())
        except HbcalError as error:
            reasons[label] = f"without {survey} the scale hangs in the air: {error}"
    loose = [cat.labels.index(label) for label in reasons]
    try:
        if len(reasons) < len(prepared.overlap.fitted):
            return Rest(prepare(recipe, cat.select(~np.isin(cat.label, loose))), reasons)
    except HbcalError as error:  # a covariate that only this survey's stars spread
        told = f"without {survey} the rest cannot be fitted: {error}"
        reasons |= {label: told for label in prepared.overlap.fitted if label not in reasons}
    return Rest(None, reasons)


def central(prepared: Prepared) -> xr.DataArray:
    """Zero points and trends at the mode of the noise parameters: a number that moves as the posterior does.

    Args:
        prepared: a fit.

    Returns:
        (survey, label, term), "offset" first, label units; NaN where there is no such term.

    Errors:
        None.

    Example:
        >>> central(tiny_prepared()).sel(survey="s1", label="fe_h").dims
        ('term',)
    """
    problem = pose(prepared)
    posed, sites = problem.prepared, dict(problem.task.start)
    if problem.task.complete is not None:
        sites |= draw_coefficients(jax.random.PRNGKey(0), sites, posed.design, posed.y, white=0.0)
    named = named_quantities(posed, {k: np.asarray(v)[None, None] for k, v in sites.items()})
    cat = posed.catalogue
    values = np.concatenate([named["offset"][0, 0, ..., None], named["trend"][0, 0]], axis=-1)
    coords = {"survey": list(cat.surveys), "label": list(cat.labels), "term": list(posed.terms)}
    return xr.DataArray(values, dims=("survey", "label", "term"), coords=coords)
