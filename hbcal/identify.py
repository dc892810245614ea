"""What the data of a run can tell and what not: ties between surveys, contraction, open combinations, influence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hbcal.contraction import Open, contraction, open_combinations
from hbcal.design import Prepared, prepare
from hbcal.draws import Draws, label_draws
from hbcal.influence import moved
from hbcal.terms import OFFSET
from hbcal.tree import terms_of

if TYPE_CHECKING:
    from hbcal.run import Run

FEW_DRAWS = 50  # enough for a mean noise
LEVELS = {"q05": 0.05, "q95": 0.95}
MOST_OPEN = 12  # combinations spelled out per label
WEAK = 0.5  # contraction below which a term is named


@dataclass(frozen=True)
class Identifiability:
    """What a run's data tell.

    Attributes:
        network: (label, survey, other): ``n_star`` in common, ``tie_sd`` the sd of the difference of zero points that
            the pair alone gives, and the posterior of that difference, ``mean``, ``sd``, ``q05``, ``q95`` (survey minus
            other; label units).
        contraction: (survey, label, term): ``contraction``, ``prior_sd``, ``posterior_sd``.
        combinations: what the data leave open.
        influence: (dropped, survey, label, term): ``moved`` and its Monte Carlo ``error`` in posterior sd, ``shift`` in
            label units; ``reason``.
        scale: label -> "anchored on ..." or "relative scale".
        floor_sums: label -> surveys whose floors are known only in sums.
        units: of the labels.
    """

    network: xr.Dataset
    contraction: xr.Dataset
    combinations: tuple[Open, ...]
    influence: xr.Dataset
    scale: Mapping[str, str]
    floor_sums: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]

    def text(self) -> str:
        """The report for people."""
        lines: list[str] = []
        for label in self.scale:
            unit = self.units[label]
            lines += [
                f"{label} [{unit}]: {self.scale[label]}",
                "  Who is tied to whom, and the zero points between them",
            ]
            lines += [f"    {line}" for line in self._ties(label)]
            lines += ["  What the data leave open"] + [f"    {line}" for line in self._open(label)]
            lines += ["  How far zero points move when a source is dropped, in posterior sd"]
            lines += [f"    {line}" for line in self._influence(label)]
        return "\n".join(lines)

    def _ties(self, label: str) -> list[str]:
        out = []
        net = self.network.sel(label=label)
        for a, b in combinations([str(s) for s in net["survey"].values], 2):
            one = {k: float(v) for k, v in net.sel(survey=a, other=b).data_vars.items()}
            if not np.isfinite(one["mean"]):
                continue
            tie = "no star in common" if not one["n_star"] else f"{one['n_star']:.0f} stars in common"
            if one["n_star"] and np.isfinite(one["tie_sd"]):
                tie += f", worth {one['tie_sd']:.2g} by themselves"
            interval = f"{one['q05']:+.4g} to {one['q95']:+.4g}, 90%"
            out.append(f"{a} - {b}: {one['mean']:+.4g} ({interval}), sd {one['sd']:.2g}; {tie}")
        return out

    def _open(self, label: str) -> list[str]:
        found = [c for c in self.combinations if c.label == label]
        out = [f"{c.words} (posterior {100 * c.ratio:.0f}% as wide as the prior)" for c in found[:MOST_OPEN]]
        if len(found) > MOST_OPEN:
            out.append(f"and {len(found) - MOST_OPEN} more combinations, each smaller than the last")
        table = self.contraction["contraction"].sel(label=label)
        weak = table.stack(each=("survey", "term"))
        weak = weak.where(weak < WEAK, drop=True)
        known = int(np.isfinite(table).sum())
        out.append(f"of {known} zero points and trends the data at least halved the variance of {known - weak.size}")
        if label in self.floor_sums:
            out.append(f"of the floors of {', '.join(self.floor_sums[label])} only sums are known")
        return out

    def _influence(self, label: str) -> list[str]:
        out = []
        for survey in self.influence["dropped"].values:
            one = self.influence.sel(dropped=survey, label=label)
            if reason := str(one["reason"].item()):
                out.append(reason)
                continue
            zero = one["moved"].sel(term=OFFSET).to_series().dropna()
            moves = [f"{s} {value:+.2f}" for s, value in zero.items()]
            trends = one["moved"].drop_sel(term=OFFSET).to_numpy()
            trends = np.abs(trends[np.isfinite(trends)])
            extra = f"; trends at most {trends.max():.2f}" if trends.size else ""
            noise = float(one["error"].sel(term=OFFSET).max())
            each = f" (each +-{noise:.2f} at most)" if noise > 0 else ""
            out.append(f"without {survey}: {', '.join(moves)}{each}{extra}")
        return out


def identifiability(
    run: Run, progress: Callable[[str], None] | None = None, drop: Sequence[str] | None = None
) -> Identifiability:
    """Say what the data of a run can tell, and what they cannot.

    Args:
        run: finished.
        progress: called with lines of text.
        drop: sources whose influence is asked for, each about a tenth of the fit; all where none is named.

    Returns:
        `Identifiability`, label units.

    Errors:
        HbcalError for a source the run does not have, and when the run kept no clipped measurements, as those of older
        versions.

    Example:
        >>> print(identifiability(tiny_run()).text().splitlines()[0])
        fe_h [dex]: anchored on s0
    """
    prepared = prepare(run.recipe, run.catalogue)
    say = progress or (lambda text: None)
    return Identifiability(
        network=network(run, prepared),
        contraction=contraction(prepared, run.posterior),
        combinations=tuple(open_combinations(prepared, run.posterior)),
        influence=moved(prepare(run.recipe, run.unclipped), terms_of(run.posterior), say, drop),
        scale=run.scale,
        floor_sums=prepared.overlap.sums,
        units=json.loads(run.tree.attrs["units"]),
    )


def network(run: Run, prepared: Prepared) -> xr.Dataset:
    """The overlap graph with what each tie is worth, and the posterior of every difference of zero points.

    A star that both of a pair saw tells their difference with variance V_a + V_b, V = (a e)^2 + tau^2 at its posterior
    mean (of repeated visits, that of their weighted mean), so that the pair alone gives it with

        sd = [ sum_i 1 / (V_ia + V_ib) ]^(-1/2)

    Args:
        run: finished.
        prepared: its fit.

    Returns:
        ``n_star``, ``tie_sd``, ``mean``, ``sd``, ``q05``, ``q95``, (label, survey, other), label units; the difference
        is survey minus other; NaN where a survey has no such zero point, and no tie where either has no vote.

    Errors:
        None.

    Example:
        >>> found = network(tiny_run(), tiny_prepared()).sel(label="fe_h", survey="s1", other="s2")
        >>> bool(found["sd"] < 1.2 * found["tie_sd"])  # the anchor's stars help
        True
    """
    cat, recipe = prepared.catalogue, run.recipe
    labels, surveys = list(prepared.overlap.fitted), list(cat.surveys)
    offset = run.posterior["offset"].stack(sample=("chain", "draw")).sel(label=labels)
    difference = offset - offset.rename(survey="other")
    axes = ("label", "survey", "other")
    q = difference.quantile(list(LEVELS.values()), "sample", skipna=False)
    out = {"mean": difference.mean("sample", skipna=False), "sd": difference.std("sample", skipna=False)}
    out |= {name: q.sel(quantile=level, drop=True) for name, level in LEVELS.items()}
    shape = (len(labels), len(surveys), len(surveys))
    n_star, information = np.zeros(shape), np.zeros(shape)
    for i, label in enumerate(labels):
        prec = {s: _precision(prepared, d.thinned(FEW_DRAWS), s, label)
                for s, d in label_draws(recipe, run.posterior, label).items() if recipe.votes(s, label)}  # fmt: skip
        for a, b in combinations(prec, 2):
            both = (prec[a] > 0) & (prec[b] > 0)
            at = [(i, surveys.index(a), surveys.index(b)), (i, surveys.index(b), surveys.index(a))]
            for where in at:
                n_star[where] = both.sum()
                information[where] = (1.0 / (1.0 / prec[a][both] + 1.0 / prec[b][both])).sum()
    with np.errstate(divide="ignore"):
        tie_sd = np.where(information > 0, information**-0.5, np.nan)
    coords = {"label": labels, "survey": surveys, "other": surveys}
    out |= {"n_star": xr.DataArray(n_star, coords, axes), "tie_sd": xr.DataArray(tie_sd, coords, axes)}
    return xr.Dataset(out).transpose(*axes)


def _precision(prepared: Prepared, draws: Draws, survey: str, label: str) -> np.ndarray:
    """1 / V of a survey's measurements of each star together, (n_star,); 0 where it has none."""
    cat = prepared.catalogue
    s = cat.surveys.index(survey)
    rows = np.flatnonzero((cat.survey == s) & (cat.label == cat.labels.index(label)))
    var = (draws.noise(cat.x[cat.star[rows], s], cat.error[rows]) ** 2).mean(axis=1)
    return np.bincount(cat.star[rows], weights=1.0 / var, minlength=cat.n_star)
