"""Sources that copy from each other: equal values, or differences too small for honest measurements."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from hbcal.catalogue.catalogue import Catalogue

LEAST = 20  # stars in common, to say anything
NARROW, WIDE = 0.1, 0.5  # half-widths of the two windows that are compared, in units of the scatter
CLOSE = 0.2  # of the scatter against any third source: closer two sources cannot be by themselves
CHANCE = 1e-6  # that honest measurements look like this; there may be hundreds of pairs


@dataclass(frozen=True)
class Copy:
    """Two surveys whose values of a label agree too well.

    Attributes:
        survey, other, label: which.
        n_star: stars in common.
        share: of them that lie in the spike.
        offset: where the spike is, survey minus other, label unit.
    """

    survey: str
    other: str
    label: str
    n_star: int
    share: float
    offset: float

    def text(self) -> str:
        """In words."""
        where = "equal" if self.offset == 0 else f"{self.offset:+.3g} apart"
        return (
            f"{self.survey} and {self.other} have {self.label} {where} for {100 * self.share:.0f}% of {self.n_star} "
            "stars in common"
        )


def find_copies(
    catalogue: Catalogue, scale: dict[str, float], votes: np.ndarray, least: float = 0.25
) -> tuple[Copy, ...]:
    """Pairs of surveys that agree too well: in a spike of their differences, or altogether.

    A spike: the stars within `NARROW` scatters of the commonest difference are counted, and those within `WIDE`. Honest
    noise is smooth on that scale, so the narrow window holds about its share of the wide one; rounding piles values up,
    but in the wide window too. Altogether: two surveys scatter against each other less than `CLOSE` times as much as
    against any third; then the share is 1.

    Args:
        catalogue: any.
        scale: label -> what a floor may be, label unit; the scatter is taken to be no larger.
        votes: which measurements to look at, (n_measurement,).
        least: share of the stars in common that must lie in the spike.

    Returns:
        `Copy` per pair and label, in the catalogue's order.

    Errors:
        KeyError for a label without scale.

    Example:
        >>> sky = tiny_sky().catalogue
        >>> find_copies(sky, {"fe_h": 0.1}, np.ones(len(sky.value), bool))
        ()
    """
    found = []
    for l, label in enumerate(catalogue.labels):
        here = (catalogue.label == l) & votes
        value = {}
        for s in np.unique(catalogue.survey[here]):
            at = here & (catalogue.survey == s)
            star, first = np.unique(catalogue.star[at], return_index=True)
            value[s] = (star, catalogue.value[at][first])
        differences = {}
        for a, b in combinations(value, 2):
            _, i, j = np.intersect1d(value[a][0], value[b][0], return_indices=True)
            if len(i) >= LEAST:
                differences[a, b] = value[a][1][i] - value[b][1][j]
        scatter = {pair: 1.4826 * np.median(np.abs(d - np.median(d))) for pair, d in differences.items()}
        for (a, b), d in differences.items():
            spike = spike_of(d, scale[label])
            third = [sd for pair, sd in scatter.items() if pair != (a, b) and {a, b} & set(pair)]
            if spike is not None and spike[0] >= least:
                found.append(Copy(catalogue.surveys[a], catalogue.surveys[b], label, len(d), *spike))
            elif third and scatter[a, b] < CLOSE * min(third):
                found.append(Copy(catalogue.surveys[a], catalogue.surveys[b], label, len(d), 1.0, float(np.median(d))))
    return tuple(found)


def spike_of(difference: np.ndarray, scale: float) -> tuple[float, float] | None:
    """Share of the differences in a spike too narrow for noise, and where it is.

    Args:
        difference: (n,), any unit.
        scale: what a floor may be, same unit; the scatter is that of the differences where that is smaller.

    Returns:
        (share, offset), or None where there is no spike.

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> noise = rng.normal(0.0, 0.05, 200)
        >>> spike_of(noise, 0.05) is None, spike_of(np.where(rng.random(200) < 0.4, 0.0, noise), 0.05)[1]
        (True, 0.0)
    """
    if len(difference) < LEAST:
        return None
    order = np.sort(difference)
    scale = min(scale, float(np.quantile(order, 0.95) - np.quantile(order, 0.05)) / 3.29)
    slack = 1e-9 * (np.abs(order).max() + scale)  # equal up to rounding of the numbers themselves
    inside = np.searchsorted(order, order + 2 * NARROW * scale + slack, "right") - np.arange(len(order))
    first = int(inside.argmax())
    offset = float(np.median(order[first : first + inside[first]]))
    narrow, wide = (int((np.abs(difference - offset) <= w * scale + slack).sum()) for w in (NARROW, WIDE))
    # the window was put where it holds most: of several places to choose from
    expected = 2.0 * NARROW / WIDE
    chance = stats.binom.sf(narrow - 1, wide, min(expected, 1.0))
    return (narrow / len(difference), offset) if chance < CHANCE else None
