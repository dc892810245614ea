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
from hbcal.draws import Draws, correlation_draws, draws_of
from hbcal.fitted import answerable, explain, fitted_edges
from hbcal.mixture import CHUNK, Mixture
from hbcal.recipe import Recipe
from hbcal.support import Edges

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


def apply_draws(
    recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, target: Target, scale: Mapping[str, str]
) -> Applied:
    """z = y - delta - beta . phi(x), mixed over the posterior draws.

    Per row and draw d the true label is N(y - shift_d, noise_d^2). The variance is split into ``err_star``^2, the mean
    of noise_d^2 (independent between stars), and ``err_calibration``^2, the variance of shift_d (shared by all stars).
    Where the program knows outliers, the errors are those of a measurement that is none; the quantiles include that it
    may be one. Labels of one row share the calibration's draws, and where their errors are correlated, as the table or
    else the fit says, part of the noise.

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
    fitted = correlation_draws(posterior, target.survey)
    at = [list(recipe.labels).index(label) for label in labels]
    for start in range(0, n_row, CHUNK):
        rows = slice(start, start + CHUNK)
        _covariances(drawn, target, rows, columns, edge, value, covariance)
        covariance[rows] += _noise_covariance(drawn, target, rows, fitted[:, at][:, :, at])
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


def _noise_covariance(drawn: Mapping[str, Draws], target: Target, rows: slice, fitted: np.ndarray) -> np.ndarray:
    """Covariance of the noise of different labels, mean over the draws, (n, n_label, n_label); 0 on the diagonal."""
    labels = list(drawn)
    out = np.zeros((len(target.star[rows]), len(labels), len(labels)))
    independent = not target.correlation and not (fitted - np.eye(len(labels))).any()
    if independent or len(labels) < 2:
        return out
    parts = [d.parts(target.x[rows], target.error[label][rows]) for label, d in drawn.items()]
    pairs = [frozenset((a, b)) for i, a in enumerate(labels) for b in labels[:i]]
    given = {pair: target.correlation.get(pair, np.full(len(target.star), np.nan))[rows] for pair in pairs}
    some = np.isfinite(list(given.values())).any(0)[:, None]
    for i, first in enumerate(labels):
        for j, second in enumerate(labels[:i]):
            (quoted, wide), (quoted_2, wide_2) = parts[i], parts[j]
            of_errors = np.where(some, np.nan_to_num(given[frozenset((first, second))])[:, None], fitted[None, :, i, j])
            out[:, i, j] = (quoted * of_errors * quoted_2 + wide * fitted[None, :, i, j] * wide_2).mean(1)
            out[:, j, i] = out[:, i, j]
    return out


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
