"""What the data add to the prior: contraction of every term, and the combinations of terms that stay open, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from hbcal.design import Prepared
from hbcal.numerics.null import open_directions, varimax
from hbcal.terms import OFFSET, trend_terms
from hbcal.tree import terms_of

OPEN = 0.5  # variance in units of the prior's from which on a combination counts as open: 0.7 of the prior's sd
NAMED = 0.5  # a number takes part in a combination where its loading is at least this share of the largest


@dataclass(frozen=True)
class Open:
    """A combination of zero points and trends of a label that the data leave open.

    Attributes:
        label: which.
        ratio: posterior sd along it, in units of the prior's.
        amount: what one posterior sd along it adds to each number, label unit, (n_survey, n_term).
        words: what it is.
    """

    label: str
    ratio: float
    amount: np.ndarray
    words: str


def contraction(prepared: Prepared, posterior: xr.Dataset) -> xr.Dataset:
    """How much narrower each zero point and trend is than its prior.

        contraction = 1 - (posterior variance) / (prior variance)

    The prior is that within the gauge; one whose sd is learnt is taken as wide as the posterior says it is.

    Args:
        prepared: the fit.
        posterior: its draws.

    Returns:
        ``contraction`` (dimensionless), ``prior_sd``, ``posterior_sd`` (label units), (survey, label, term); NaN for
        what is not free.

    Errors:
        KeyError when the posterior is another fit's.

    Example:
        >>> found = contraction(tiny_prepared(), tiny_run().posterior)
        >>> bool((found["contraction"].sel(survey="s1") > 0.9).all())
        True
    """
    draws = terms_of(posterior)
    sd = draws.std("sample", skipna=False)
    prior = xr.full_like(sd, np.nan)
    cat, recipe = prepared.catalogue, prepared.recipe
    for i, label in enumerate(prepared.overlap.fitted):
        expand = prepared.expand[i]
        var = np.einsum("stk,k->st", expand**2, (_prior_sds(prepared, posterior, i) ** 2).mean(axis=0))
        prior.loc[{"label": label, "term": list(prepared.terms)}] = np.where(var > 0, np.sqrt(var), np.nan)
    empty = np.zeros((1, len(recipe.covariates)))
    for survey in recipe.dependent:  # fitted in a second stage, to the same priors, no scale of theirs learnt
        for label in cat.labels:
            terms, spec = trend_terms(recipe, survey, label, empty), recipe.labels[label]
            sds = {OFFSET: spec.offset_sd or spec.offset_scale}
            sds |= {f"trend{i}": trend.sd or trend.scale for i, trend in enumerate(recipe.trend)}
            for name, weight, group in zip(terms.names, terms.weights, terms.groups, strict=True):
                prior.loc[{"survey": survey, "label": label, "term": name}] = weight * sds[group]
    sd = sd.where(sd > 0)  # an anchor's zero is not free
    prior = prior.where(np.isfinite(sd))
    return xr.Dataset({"contraction": 1.0 - (sd / prior) ** 2, "prior_sd": prior, "posterior_sd": sd})


def _prior_sds(prepared: Prepared, posterior: xr.Dataset, i: int) -> np.ndarray:
    """Prior sd of each coefficient of a label in each draw, (n_draw, n_coef)."""
    label = prepared.design.labels[i]
    n = posterior.sizes["chain"] * posterior.sizes["draw"]
    scales = np.zeros((n, 0))
    if prepared.scales:
        scales = posterior["prior_sd"].sel(scale=list(prepared.scales)).to_numpy().reshape(n, -1)
    return np.asarray(label.weight) * (np.asarray(label.fixed_sd) + scales @ np.asarray(label.learnt_sd).T)


def open_combinations(prepared: Prepared, posterior: xr.Dataset) -> list[Open]:
    """Combinations of zero points and trends along which the posterior is nearly as wide as the prior.

    Coefficients are divided by their prior sd, draw by draw; the subspace in which their covariance is at least `OPEN`
    is turned so that each of its directions uses few of them.

    Args:
        prepared: the fit.
        posterior: its draws.

    Returns:
        `Open` per direction, the widest in label units first, label after label.

    Errors:
        KeyError when the posterior is another fit's.

    Example:
        >>> open_combinations(tiny_prepared(), tiny_run().posterior)
        []
    """
    draws = terms_of(posterior).sel(term=list(prepared.terms))
    out: list[Open] = []
    for i, label in enumerate(prepared.overlap.fitted):
        spread = prepared.expand[i].reshape(-1, prepared.expand[i].shape[2])
        values = np.nan_to_num(draws.sel(label=label).to_numpy().reshape(draws.sizes["sample"], -1))
        prior_sd = _prior_sds(prepared, posterior, i)
        white = values @ spread / prior_sd  # the columns of spread are orthonormal
        found = open_directions(np.cov(white, rowvar=False).reshape(2 * (white.shape[1],)), OPEN)
        turned = varimax(spread @ found)
        wide = np.sqrt((prior_sd**2).mean(axis=0))
        here = []
        for loading in turned.T:
            ratio = float((white @ (spread.T @ loading)).std())
            amount = ratio * (spread @ (wide * (spread.T @ loading)))
            amount = amount * np.sign(amount[np.abs(amount).argmax()])
            amount = amount.reshape(prepared.expand[i].shape[:2])
            words = in_words(label, prepared.recipe.unit(label), prepared.catalogue.surveys, prepared.terms, amount)
            here.append(Open(label, ratio, amount, words))
        out += sorted(here, key=lambda each: -np.abs(each.amount).max())
    return out


def in_words(label: str, unit: str, surveys: tuple[str, ...], terms: tuple[str, ...], amount: np.ndarray) -> str:
    """Say what a combination of zero points and trends is.

    Args:
        label, unit: whose.
        surveys, terms: names of the axes.
        amount: what one sd adds to each number, label unit, (n_survey, n_term).

    Returns:
        A sentence without a full stop.

    Errors:
        None.

    Example:
        >>> both = np.array([[0.0, 0.03], [0.0, 0.03]])
        >>> in_words("fe_h", "dex", ("A", "B"), ("offset", "teff"), both)
        'the fe_h trends with teff of A and B can rise together by 0.03 dex: only their difference is known'
        >>> in_words("fe_h", "dex", ("A", "B"), ("offset", "teff"), np.array([[0.0, 0.1], [0.0, 0.0]]))
        'the fe_h trend with teff of A can be 0.1 dex more or less: the data hardly constrain it'
    """
    size = np.abs(amount)
    at = np.argwhere(size >= NAMED * size.max())
    who = list(dict.fromkeys(surveys[s] for s, _ in at))
    what = list(dict.fromkeys(terms[t] for _, t in at))
    moved = np.array([amount[s, t] for s, t in at])
    much = f"{size.max():.2g} {unit}".strip()
    if len(at) == 1:
        return f"the {label} {_called(what[0])} of {who[0]} can be {much} more or less: the data hardly constrain it"
    if len(what) == 1 and (moved > 0).all():
        known = "difference is" if len(who) == 2 else "differences are"
        return (
            f"the {label} {_called(what[0], 's')} of {_and(who)} can rise together by {much}: only their {known} known"
        )
    parts = ", ".join(f"{_called(terms[t])} of {surveys[s]} {amount[s, t]:+.2g}" for s, t in at)
    kind = "against each other" if (moved < 0).any() else "together"
    return f"these {label} numbers can move {kind}, only the other combinations are known: {parts} {unit}".strip()


def _called(term: str, plural: str = "") -> str:
    return f"zero point{plural}" if term == OFFSET else f"trend{plural} with {term}"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"
