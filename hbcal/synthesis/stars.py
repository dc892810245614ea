"""The stars of a grid: their names and labels, and what the labels leave open."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, closest, some
from hbcal.synthesis.abundances import ELEMENTS
from hbcal.synthesis.atmospheres import AtmosphereSet, corners
from hbcal.synthesis.relations import ALPHA_M, VMICRO
from hbcal.synthesis.spec import GridSpec

NEEDED = ("teff", "logg")
METALLICITY = ("m_h", "fe_h")
OPTIONAL = ("alpha_m", "vmicro")
SINGLE = {f"{symbol.lower()}_fe": symbol for symbol in ELEMENTS[2:] if symbol != "Fe"}
LABELS = (*NEEDED, *METALLICITY, *OPTIONAL, *SINGLE)


@dataclass(frozen=True)
class Stars:
    """Stars to compute.

    Attributes:
        star: their names.
        label_names: in the order teff, logg, m_h or fe_h, alpha_m, vmicro, [X/Fe].
        labels: (n_star, n_label), K, dex, km/s.
    """

    star: tuple[str, ...]
    label_names: tuple[str, ...]
    labels: np.ndarray

    def of(self, i: int) -> dict[str, float]:
        """Labels of one star by name."""
        return dict(zip(self.label_names, self.labels[i].tolist(), strict=True))

    def keep(self, rows: Sequence[int]) -> Stars:
        """Some of the stars."""
        return Stars(tuple(self.star[i] for i in rows), self.label_names, self.labels[list(rows)])


def expand(spec: GridSpec) -> Stars:
    """List the stars that a grid declares.

    Args:
        spec: the grid.

    Returns:
        The stars: the product of the axes with the last label changing fastest, the rows of the list or table, or a
        draw that is the same whenever the seed is.

    Errors:
        HbcalError for an unknown label (with the closest known), a missing one, a number that is none, two names for
        the metallicity, a star that appears twice.

    Example:
        >>> from hbcal.synthesis.spec import parse_grid
        >>> window = {"low": 8460.0, "high": 8700.0, "step": 0.1}
        >>> table = {"name": "g", "window": window, "lines": {"files": ["l"]}, "atmospheres": {"folder": "a"}}
        >>> table["axes"] = {"teff": [5000, 5500], "logg": [2.0, 4.0], "m_h": [0.0]}
        >>> stars = expand(parse_grid(table, Path()))
        >>> stars.star[1], stars.of(1)
        ('g-1', {'teff': 5000.0, 'logg': 4.0, 'm_h': 0.0})
    """
    named: Sequence[str] = ()
    if spec.axes:
        names = _ordered(spec.axes)
        empty = [name for name in names if not spec.axes[name]]
        if empty:
            raise HbcalError(f"The grid's axes have no values for {some(empty)}: give some, or drop the axis.")
        values = np.array(list(itertools.product(*(spec.axes[name] for name in names))))
    elif spec.draw.n:
        names, values = _drawn(spec)
    elif spec.stars:
        names = _ordered(spec.stars[0])
        uneven = [i for i, star in enumerate(spec.stars) if set(star) != set(names)]
        if uneven:
            raise HbcalError(
                f"{len(uneven)} entries of the grid's stars have other labels than the first (entry "
                f"{uneven[0] + 1}): give all the same."
            )
        values = np.array([[star[name] for name in names] for star in spec.stars])
    else:
        named, names, values = _read_table(Path(spec.table))
    if not np.isfinite(values).all():
        raise HbcalError(
            f"{int((~np.isfinite(values)).any(1).sum())} star(s) of the grid have a label that is no number."
        )
    width = len(str(len(values) - 1))
    star = tuple(named) or tuple(f"{spec.name}-{i:0{width}d}" for i in range(len(values)))
    if len(set(star)) < len(star):
        twice = sorted({name for name in star if star.count(name) > 1})
        raise HbcalError(
            f"{len(twice)} star(s) of the grid's table appear more than once ({some(twice)}): rename them."
        )
    return Stars(star, names, values)


def _ordered(given: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    """The labels given, checked, in their order."""
    for name in given:
        if name not in LABELS:
            raise HbcalError(f"The grid names an unknown label {name!r}{closest(name, LABELS)}.")
    metals = [name for name in METALLICITY if name in given]
    if len(metals) != 1 or any(name not in given for name in NEEDED):
        raise HbcalError(
            f"The grid has the labels {some(given, 9)}: it needs teff, logg and one of m_h and fe_h, which mean the "
            "same here."
        )
    order = {name: i for i, name in enumerate(LABELS)}
    return tuple(sorted(given, key=order.__getitem__))


def _drawn(spec: GridSpec) -> tuple[tuple[str, ...], np.ndarray]:
    """Evenly between low and high."""
    draw = spec.draw
    names = _ordered(draw.low)
    if set(draw.high) != set(names):
        raise HbcalError(
            f"The grid's draw has low for {some(draw.low, 9)} but high for {some(draw.high, 9)}: give both for each."
        )
    wrong = [name for name in names if draw.low[name] > draw.high[name]]
    if wrong or draw.n < 1 or draw.seed < 0:
        what = f"low above high for {some(wrong)}" if wrong else f"n = {draw.n}, seed = {draw.seed}"
        raise HbcalError(
            f"The grid's draw has {what}: give low <= high, n of 1 or more, and a seed that is not negative."
        )
    low, high = (np.array([side[name] for name in names]) for side in (draw.low, draw.high))
    return names, low + (high - low) * np.random.default_rng(draw.seed).random((draw.n, len(names)))


def _read_table(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Names and labels of a CSV file."""
    if not path.is_file():
        raise HbcalError(f"The grid's table {path} does not exist: check the path.")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    if len(rows) < 2:
        raise HbcalError(f"The grid's table {path} has no stars: give a line of names and a line for each star.")
    head = [name.strip() for name in rows[0]]
    names = _ordered([name for name in head if name != "star"])
    if len(set(head)) < len(head):
        raise HbcalError(f"The grid's table {path} has a column name more than once: rename one.")
    star, values = [], []
    for number, row in enumerate(rows[1:], 2):
        try:
            cells = dict(zip(head, row, strict=True))
            values.append([float(cells[name]) for name in names])
        except ValueError:
            raise HbcalError(
                f"The grid's table {path} is damaged in line {number}: give {len(head)} columns, all but star numbers."
            ) from None
        star.append(cells.get("star", "").strip())
    return (star if "star" in head else []), names, np.array(values)


def physical(spec: GridSpec, labels: Mapping[str, float]) -> dict[str, float]:
    """Complete a star's labels with what they leave open.

    Args:
        spec: the grid, for its relations.
        labels: of one star.

    Returns:
        teff, logg, m_h, alpha_m and vmicro.

    Errors:
        None.

    Example:
        >>> from types import SimpleNamespace
        >>> spec = SimpleNamespace(alpha="marcs", microturbulence="holtzman2018")
        >>> told = physical(spec, {"teff": 4500.0, "logg": 2.0, "fe_h": -0.5})
        >>> {name: round(value, 2) for name, value in told.items()}
        {'teff': 4500.0, 'logg': 2.0, 'm_h': -0.5, 'alpha_m': 0.2, 'vmicro': 1.62}
    """
    m_h = labels["m_h"] if "m_h" in labels else labels["fe_h"]
    alpha_m = labels["alpha_m"] if "alpha_m" in labels else ALPHA_M[spec.alpha](m_h)
    vmicro = labels["vmicro"] if "vmicro" in labels else VMICRO[spec.microturbulence](labels["logg"])
    return {"teff": labels["teff"], "logg": labels["logg"], "m_h": m_h, "alpha_m": alpha_m, "vmicro": vmicro}


def inside(spec: GridSpec, stars: Stars, atmospheres: AtmosphereSet) -> Stars:
    """Keep the stars that models surround.

    Args:
        spec: the grid; its `outside` says whether others are dropped or refused.
        stars: all of them.
        atmospheres: the models.

    Returns:
        Those inside, in order.

    Errors:
        HbcalError that counts and names the others where they are refused, or where none is left.

    Example:
        >>> from types import SimpleNamespace
        >>> relations = {"alpha": "solar", "microturbulence": "holtzman2018"}
        >>> spec = SimpleNamespace(atmospheres=SimpleNamespace(outside="refuse"), **relations)
        >>> star = Stars(("sun",), ("teff", "logg", "m_h"), np.array([[5777.0, 4.44, 0.0]]))
        >>> inside(spec, star, AtmosphereSet({}, ((5e3, 5.5e3), (4.0, 4.5), (0.0,))))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 1 of 1 star(s) are outside the atmospheres (teff 5000 to 5500, logg 4 to 4.5, m_h ...
    """
    rows = [i for i in range(len(stars.star)) if corners(atmospheres, physical(spec, stars.of(i))) is not None]
    n_out = len(stars.star) - len(rows)
    if n_out and (spec.atmospheres.outside == "refuse" or not rows):
        kept = set(rows)
        out = [
            f"{name} ({', '.join(f'{label} = {value:g}' for label, value in stars.of(i).items())})"
            for i, name in enumerate(stars.star)
            if i not in kept
        ]
        reach = ", ".join(
            f"{name} {nodes[0]:g} to {nodes[-1]:g}"
            for name, nodes in zip(atmospheres.axes, atmospheres.nodes, strict=True)
        )
        raise HbcalError(
            f"{n_out} of {len(stars.star)} star(s) are outside the atmospheres ({reach}, with holes): {some(out, 2)}; "
            'change the labels, or set outside = "drop".'
        )
    return stars.keep(rows)
