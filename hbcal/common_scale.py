"""Abundances of a survey put on the common scale by a calibration, whose uncertainty stays shared by all stars."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, closest, some
from hbcal.apply import apply_draws, drawn_of
from hbcal.catalogue.abundances import Abundances
from hbcal.catalogue.values import rows_of
from hbcal.mixture import CHUNK
from hbcal.run import Run

KEPT = 0.999  # of the variance of the shared part; what is left over counts as each star's own


def put_on_scale(
    stars: Abundances, run: Run, path: Path, survey: str, directions: np.ndarray | None = None
) -> tuple[Abundances, np.ndarray]:
    """Values on the common scale, and how they would move were the calibration another.

        z_i = y_i - delta - beta . phi(x_i) = value_i + shift_i u,   u ~ N(0, 1)

    `value` is the mean over the calibration's draws; `shift` holds the principal directions of z over those draws, of
    all stars and elements together; `covariance` is what is each star's own: its noise, and the little that those
    directions leave out, so that the variance of a star is that of ``hbcal apply``.

    Args:
        stars: as the table reports them; elements that are labels of the run are replaced, others stay.
        run: of `hbcal.calibrate`.
        path: the table of these stars, whose covariates are read, too.
        survey: whose stars they are.
        directions: of other stars, for the same u; found anew where None.

    Returns:
        `Abundances` with a shift, values without a calibrated answer being NaN and counted; and the directions, which
        turn the run's draws, (n_draw,), into those of u, (n_draw, n_shift).

    Errors:
        HbcalError for a survey the run does not know, a table without any of its labels, a structural run.

    Example:
        >>> import tempfile
        >>> star = np.array(["a", "b"], object)
        >>> stars = Abundances(star, ("fe_h",), ("dex",), np.zeros((2, 1)), np.ones((2, 1, 1)), {})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "table.csv"
        ...     _ = path.write_text("star,fe_h,fe_h_err,x1,x2\\na,0.0,0.05,0.1,0.3\\nb,-0.3,0.05,-0.2,0.5\\n")
        ...     found, directions = put_on_scale(stars, tiny_run(), path, "s1")
        >>> found.shift.shape[:2], bool((found.covariance > 0).all())
        ((2, 1), True)
    """
    if run.recipe.program == "crosscal_structural":
        raise HbcalError(
            f"The run in {run.path} is one of crosscal_structural, whose calibration is not linear in the labels: give "
            "populations a run of crosscal, crosscal_robust or crosscal_correlated."
        )
    if not survey:
        raise HbcalError(
            f"The recipe does not say which survey its stars are of: set survey in [stars] to one of "
            f"{some(run.recipe.surveys)}."
        )
    target = run.read(path, survey)
    fitted = run.calibrated_labels(survey)
    shared = [name for name in stars.elements if name in fitted]
    if not shared:
        raise HbcalError(
            f"None of the elements {some(stars.elements)} is a label that the run calibrated for {survey}: it has "
            f"{some(fitted)}{closest(stars.elements[0], fitted)}; name the recipe's elements as the run's labels."
        )
    applied = apply_draws(run.recipe, run.posterior, run.catalogue, target, run.scale)
    if len(set(target.star)) < len(target.star):
        raise HbcalError(f"{path.name} has stars twice: keep one row of each.")
    rows = rows_of(stars.star.astype(str), target.star.astype(str).tolist())
    if (rows < 0).any():
        raise HbcalError(
            f"{int((rows < 0).sum())} of {len(rows)} stars are not in the column of ids that the run reads from "
            f"{path.name}, first {stars.star[rows < 0][0]!r}: the recipes of both must name the same column."
        )
    drawn = drawn_of(run.recipe, run.posterior, target)
    value, covariance = stars.value.copy(), stars.covariance.copy()
    left_out, at = Counter(stars.left_out), [stars.elements.index(name) for name in shared]
    there = [applied.labels.index(name) for name in shared]
    new = applied.value[np.ix_(rows, there)]
    lost = np.isfinite(value[:, at]) & ~np.isfinite(new)
    for name, n in zip(shared, lost.sum(0), strict=True):
        left_out[f"{name} that the calibration has no answer for"] += int(n)
    new = np.where(np.isfinite(value[:, at]), new, np.nan)  # what the recipe's ranges left out stays out
    x, parts = target.x[rows], [slice(first, first + CHUNK) for first in range(0, len(rows), CHUNK)]

    def moves(part: slice) -> np.ndarray:
        """How values move from draw to draw of the calibration, (n, n_label, n_draw)."""
        there = np.isfinite(new[part])
        each = [np.where(there[:, l, None], -drawn[name].shift(x[part]), 0.0) for l, name in enumerate(shared)]
        return np.stack([one - one.mean(1, keepdims=True) for one in each], axis=1)

    if directions is None:
        own_sd = np.nanmedian([applied.columns[f"{name}_err_star"] for name in shared], axis=1)  # units differ
        in_sd = (moves(part) / own_sd[:, None] for part in parts)
        directions = _directions(np.asarray(sum(np.einsum("nld,nle->de", m, m) for m in in_sd)))
    shift = np.zeros((len(rows), len(stars.elements), directions.shape[1]))
    for part in parts:
        shift[part, at] = moves(part) @ directions
    own = applied.covariance[rows][:, there][:, :, there] - shift[:, at] @ shift[:, at].swapaxes(1, 2)
    covariance[:, at, :], covariance[:, :, at] = 0.0, 0.0
    covariance[np.ix_(np.arange(len(rows)), at, at)] = np.where(np.isfinite(own), own, 0.0)
    value[:, at] = new
    counted = {reason: n for reason, n in left_out.items() if n}
    return replace(stars, value=value, covariance=covariance, shift=shift, left_out=counted), directions


def _directions(gram: np.ndarray) -> np.ndarray:
    """Columns that turn draws into shifts per unit of u: the fewest that hold `KEPT` of the variance."""
    size, turn = np.linalg.eigh(gram)
    size, turn = size[::-1], turn[:, ::-1]
    whole = np.cumsum(np.maximum(size, 0.0))
    n = int(np.searchsorted(whole, KEPT * whole[-1])) + 1 if whole[-1] > 0 else 0
    return turn[:, :n] / np.sqrt(len(gram))
