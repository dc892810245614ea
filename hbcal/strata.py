"""The stars of a prepared catalogue sorted by how many measurements each has: what `crosscal_robust` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hbcal.clusters import wrong_odds
from hbcal.design import Prepared
from hbcal.distributions.flat_stars import Block, split
from hbcal.distributions.outlier_stars import NEVER, Stratum
from hbcal.layout import without_stars
from hbcal.programs.crosscal_robust import RobustDesign


@dataclass(frozen=True)
class Robust:
    """The arguments of `crosscal_robust`.

    Attributes:
        design, y: of the program.
        rows: per fitted label, row of the joined catalogue of each entry of y.
    """

    design: RobustDesign
    y: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]


def robust(prepared: Prepared) -> Robust:
    """Take the stars out of `crosscal`'s blocks and sort them by their number of measurements.

    Args:
        prepared: a catalogue and its design.

    Returns:
        `Robust`; the measurements are the same, in another order, label units.

    Errors:
        None.

    Example:
        >>> posed = robust(tiny_prepared())
        >>> [stratum.err2.shape[1] for stratum in posed.design.strata[0]]  # stars with two and with three measurements
        [2, 3]
        >>> sorted(posed.rows[0].tolist()) == sorted(r for r in tiny_prepared().rows[0].tolist() if r >= 0)
        True
    """
    cat = prepared.joined
    rate = {(cat.surveys.index(s), cat.labels.index(l)): k for k, (s, l) in enumerate(prepared.rates)}
    strata, values, order = [], [], []
    for label, rows in zip(prepared.design.labels, prepared.rows, strict=True):
        tables, where = [], []
        for block, table in zip(label.blocks, split(label.blocks, rows), strict=True):
            n_seen = np.asarray(block.seen).sum(1)
            for n in np.unique(n_seen):
                here, at = _stratum(block, table, np.flatnonzero(n_seen == n), int(n))
                pairs = zip(cat.survey[at], cat.label[at], strict=True)
                rates = np.array([rate.get(pair, -1) for pair in pairs], int).reshape(-1, n)
                given = wrong_odds(cat, at, NEVER).reshape(-1, n)
                tables.append(Stratum(rate_at=rates, given=given, **here))
                where.append(at)
        strata.append(tuple(tables))
        order.append(np.concatenate(where))
        values.append(cat.value[order[-1]])
    design = RobustDesign(without_stars(prepared.design), tuple(strata), len(prepared.rates))
    return Robust(design, tuple(values), tuple(order))


def _stratum(block: Block, rows: np.ndarray, stars: np.ndarray, n_seen: int) -> tuple[dict[str, Any], np.ndarray]:
    """The stars of a block that have n measurements, and the catalogue row of each."""
    seen, n_free = np.asarray(block.seen)[stars], block.phi.shape[1]
    star, slot = np.nonzero(seen)
    free = slot < n_free
    table = lambda x: np.asarray(x)[stars][star, slot].reshape(len(stars), n_seen, *np.shape(x)[2:])  # noqa: E731
    by_slot = lambda x: np.array(x, int)[slot].reshape(len(stars), n_seen)  # noqa: E731
    return {
        "phi": np.asarray(block.phi)[stars][star[free], slot[free]], "who": np.eye(n_free)[slot[free]],
        "place": np.flatnonzero(free), "spread": np.asarray(block.spread), "err2": table(block.err2),
        "psi": table(block.psi), "scale_at": by_slot(block.scale_of), "floor_at": by_slot(block.floor_of),
    }, rows[stars][star, slot]  # fmt: skip
