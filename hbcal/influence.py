"""Influence of each source: where the zero points would lie without it, told by a tenth of a fit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from hbcal._errors import HbcalError, closest
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import overlap
from hbcal.design import Prepared, anchors_of, named_quantities, prepare, voting, with_clusters
from hbcal.infer.diagnose import table
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings
from hbcal.numerics.gauge import regauge
from hbcal.problem import pose
from hbcal.recipe import Recipe
from hbcal.tree import dataset, terms_of

CHAINS, WARMUP, DRAWS = 2, 300, 300  # from the mode and its curvature on; 100 find no metric where floors bend


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
    anchors, reasons = anchors_of(recipe), {}
    joined, votes = with_clusters(recipe, cat)
    for label in prepared.overlap.fitted:
        if prepared.overlap.anchored[label] == (survey,):
            reasons[label] = f"{survey} is the only anchor of {label}: without it the scale hangs in the air"
            continue
        try:
            here = votes & (joined.label == cat.labels.index(label))
            overlap(joined.select(here), anchors, set(), tuple(recipe.clusters))
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


def brief_mean(prepared: Prepared) -> xr.Dataset:
    """Zero points and trends of a fit, from few draws.

    Two chains start at the mode with its curvature as metric. The mode itself would not do: where scatters are skewed
    it lies up to 0.5 posterior sd from the mean.

    Args:
        prepared: a fit.

    Returns:
        ``mean`` and its Monte Carlo ``error``, (survey, label, term), "offset" first, label units; NaN where there
        is no such term.

    Errors:
        None.

    Example:
        >>> found = brief_mean(tiny_prepared()).sel(survey="s1", label="fe_h", term="offset")
        >>> bool(found["error"] < 0.01)
        True
    """
    problem, spec = pose(prepared), prepared.recipe.sampling
    settings = Settings(
        CHAINS, WARMUP, DRAWS, target_accept=spec.target_accept, max_tree_depth=spec.max_tree_depth, workers=0
    )
    with tempfile.TemporaryDirectory() as folder:
        sites, _ = sample(problem.task, settings, Path(folder))
    draws = terms_of(dataset(problem.prepared, named_quantities(problem.prepared, sites)))
    ess = table(draws.unstack("sample").to_dataset(name="draws"))["draws"]["ess_bulk"]
    mean, sd = draws.mean("sample", skipna=False), draws.std("sample", skipna=False)
    return xr.Dataset({"mean": mean, "error": sd / np.sqrt(ess)})


def moved(
    prepared: Prepared, draws: xr.DataArray, say: Callable[[str], None] = lambda text: None,
    drop: Sequence[str] | None = None,
) -> xr.Dataset:  # fmt: skip
    """How far each zero point and trend moves when a source is dropped, in units of its posterior sd.

        (mean without the source - mean with it) / posterior sd

    What is left is posed anew, clipping and consensus included, and sampled briefly (`brief_mean`). On a relative scale
    both means are made to sum to zero over the sources that are left, and so are the draws the sd is of.

    Args:
        prepared: the whole fit.
        draws: of its posterior, (sample, survey, label, term), label units.
        say: called with lines of text.
        drop: which sources, one after the other; all of them where none is named.

    Returns:
        ``moved`` and ``error``, its Monte Carlo error, in posterior sd, and ``shift`` in label units, (dropped, survey,
        label, term), NaN where there is no number; ``reason`` (dropped, label), empty where there is one.

    Errors:
        HbcalError for a source the fit does not have; what cannot be told has a reason.

    Example:
        >>> found = moved(tiny_prepared(), terms_of(tiny_run().posterior), drop=["s0"])
        >>> found["moved"].dims
        ('dropped', 'survey', 'label', 'term')
        >>> found["reason"].sel(dropped="s0", label="fe_h").item()
        's0 is the only anchor of fe_h: without it the scale hangs in the air'
    """
    surveys = prepared.catalogue.surveys
    for name in drop or ():
        if name not in surveys:
            raise HbcalError(f"The run has no source {name!r} to drop{closest(name, surveys)}.")
    sources = list(drop or surveys)
    found = []
    for survey in sources:
        say(f"without {survey}: sampling what is left, briefly")
        found.append(_without(prepared, draws, survey))
    return xr.concat(found, xr.Variable("dropped", sources))


def _without(prepared: Prepared, draws: xr.DataArray, survey: str) -> xr.Dataset:
    """What dropping one source does: moved, error, shift (survey, label, term) and reason (label)."""
    recipe, cat = prepared.recipe, prepared.catalogue
    like = draws.isel(sample=0, drop=True)
    votes = voting(recipe, cat) & (cat.survey == cat.surveys.index(survey))
    shift = error = width = xr.full_like(like, np.nan)
    if votes.any():
        rest = rest_of(prepared, survey)
        told = rest.reasons
        if rest.prepared is not None:
            left = brief_mean(rest.prepared).reindex_like(like)
            with_it = _regauged(rest.prepared, draws)
            shift = left["mean"] - with_it.mean("sample", skipna=False)
            error, width = left["error"], with_it.std("sample", skipna=False)
    else:
        told = dict.fromkeys(
            prepared.overlap.fitted, f"{survey} {_silent(recipe, survey)}: influence 0 by construction"
        )
        shift = error = xr.zeros_like(like).where(np.isfinite(like) & (like["survey"] != survey))
        width = xr.ones_like(like)
    width = width.where(width > 0)
    reason = xr.DataArray([told.get(str(l), "") for l in like["label"].values], {"label": like["label"]}, ("label",))
    return xr.Dataset({"moved": shift / width, "error": error / width, "shift": shift, "reason": reason})


def _silent(recipe: Recipe, survey: str) -> str:
    return "depends on others and has no say" if recipe.surveys[survey].depends_on else "shares no star with a voter"


def _regauged(prepared: Prepared, values: xr.DataArray) -> xr.DataArray:
    """Values (.., survey, label, term) in the gauge of a fit; NaN for what is not in it."""
    out = xr.full_like(values, np.nan)
    for label, expand in zip(prepared.overlap.fitted, prepared.expand, strict=True):
        has = expand.any(axis=2)
        # what the gauge ties sums to zero over the surveys, coefficient by coefficient
        tied = has.any(axis=0) & (np.abs(expand.sum(axis=0)).max(axis=1, initial=0.0) < 1e-9)
        here = {"label": label, "term": list(prepared.terms)}
        before = values.loc[here].transpose(..., "survey", "term")
        out.loc[here] = before.copy(data=np.where(has, regauge(before.to_numpy(), has.any(axis=1), tied), np.nan))
    return out
