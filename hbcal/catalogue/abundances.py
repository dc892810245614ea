"""Abundances of stars with the covariance of their errors, from a table and a recipe of populations."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.catalogue.filters import filter_columns, filtered
from hbcal.catalogue.label_schema import flagged
from hbcal.catalogue.read import Columns, Kind, column_names, read_columns
from hbcal.catalogue.values import in_range, read_linear
from hbcal.population_recipe import ElementSpec, PopulationRecipe, StarsSpec


@dataclass(frozen=True)
class Abundances:
    """What was measured of stars.

    Attributes:
        star: ids, (n_star,).
        elements: names, with `units`.
        value: (n_star, n_element), NaN where an element was not measured.
        covariance: of the errors, (n_star, n_element, n_element); the variance of a value without error is NaN, which
            only `hbcal.common_scale.put_on_scale` fills.
        left_out: rows and values left out, by reason.
        shift: how the values move with the numbers u ~ N(0, 1) of a calibration that all stars share,
            (n_star, n_element, n_shift), elements' units; None without one. See `hbcal.common_scale`.
        flag: (n_star,) bool, stars whose labels their file of the label schema does not trust; None where nobody says.
    """

    star: np.ndarray
    elements: tuple[str, ...]
    units: tuple[str, ...]
    value: np.ndarray
    covariance: np.ndarray
    left_out: Mapping[str, int]
    shift: np.ndarray | None = None
    flag: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Abundances:
        """The same for some of the stars."""
        shift, flag = (None if each is None else each[rows] for each in (self.shift, self.flag))
        return replace(
            self, star=self.star[rows], value=self.value[rows], covariance=self.covariance[rows], shift=shift, flag=flag
        )  # fmt: skip

    def with_any(self) -> Abundances:
        """The stars that have any element; the others are counted."""
        seen = np.isfinite(self.value).any(axis=1)
        left_out = Counter(self.left_out)
        left_out["star without any element"] += int((~seen).sum())
        return replace(self.take(np.flatnonzero(seen)), left_out={why: n for why, n in left_out.items() if n})

    def digest(self) -> str:
        """Fingerprint of ids, values and covariances."""
        found = hashlib.sha256("\n".join([*self.elements, *map(str, self.star)]).encode())
        for array in (self.value, self.covariance, *([] if self.shift is None else [self.shift])):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def read_abundances(recipe: PopulationRecipe, data: Path) -> Abundances:
    """The stars that a recipe names.

    Args:
        recipe: of populations.
        data: folder of its table.

    Returns:
        `Abundances`, recipe's units, filtered and subsampled; stars without any element are left out and counted.

    Errors:
        HbcalError for a table that cannot be read, ids twice, errors that are no errors.

    Example:
        >>> import tempfile
        >>> table = "star,a,a_err,b\\ns1,0.1,0.05,1\\ns2,0.3,0.05,2\\ns3,,0.05,\\n"
        >>> stars, elements = {"file": "t.csv"}, {name: {"value": name, "error": "a_err"} for name in ("a", "b")}
        >>> from hbcal.population_recipe import parse_populations
        >>> recipe = {"name": "x", "title": "x", "elements": elements, "stars": stars, "mixture": {"components": 2}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "t.csv").write_text(table)
        ...     found = read_abundances(parse_populations(recipe), Path(folder))
        >>> found.value.tolist(), dict(found.left_out)
        ([[0.1, 1.0], [0.3, 2.0]], {'star without any element': 1})
    """
    found = read_stars(data / recipe.stars.file, recipe.stars, recipe.elements).with_any()
    n = len(found.star)
    if 0 < recipe.stars.subsample < n:
        chosen = np.sort(np.random.default_rng(0).permutation(n)[: recipe.stars.subsample])
        left_out = {**found.left_out, "not drawn into the subsample": n - len(chosen)}
        found = replace(found.take(chosen), left_out=left_out)
    return found


def read_stars(path: Path, spec: StarsSpec, elements: Mapping[str, ElementSpec]) -> Abundances:
    """Abundances of all rows of a table that pass its filters.

    Args:
        path: of the table, or an ``.nc`` of the label schema, whose labels are the elements' value columns.
        spec: of its rows.
        elements: what to read.

    Returns:
        `Abundances`; rows in the order of the file, those without any element among them.

    Errors:
        HbcalError as `read_abundances`.

    Example:
        >>> read_stars(Path("nowhere.csv"), StarsSpec("nowhere.csv"), {})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The file nowhere.csv does not exist: check the folder and the recipe's file name.
    """
    wanted: dict[str, Kind] = dict(filter_columns(spec.keep, spec.within))
    if spec.star:
        wanted[spec.star] = "text"
    for element in elements.values():
        wanted |= dict.fromkeys((element.value, *element.error), "number")
    pairs = {}
    if path.suffix == ".nc":
        there = column_names(path)
        told = [(i, element.value) for i, element in enumerate(elements.values()) if element.error]
        for (i, a), (j, b) in combinations(told, 2):
            for name, at in ((f"{a}_{b}_corr", (i, j)), (f"{b}_{a}_corr", (i, j))):
                if name in there:
                    pairs[name] = at
        wanted |= dict.fromkeys(pairs, "number")
        if "flag" in there:
            wanted.setdefault("flag", "text")  # whatever it holds, nobody asked for it
    left_out: Counter[str] = Counter()
    columns = filtered(read_columns(path, wanted, spec.missing), spec.keep, spec.within, left_out)
    star = columns.values[spec.star] if spec.star else np.array([f"row{i}" for i in columns.row], object)
    _refuse_twice(star, path.name)
    value = np.full((columns.n_row, len(elements)), np.nan)
    covariance = np.zeros((columns.n_row, len(elements), len(elements)))
    for e, (name, element) in enumerate(elements.items()):
        value[:, e], covariance[:, e, e] = _element(columns, name, element, left_out)
    for name, (i, j) in pairs.items():
        corr = np.nan_to_num(columns.values[name])
        covariance[:, i, j] = covariance[:, j, i] = corr * np.sqrt(covariance[:, i, i] * covariance[:, j, j])
    if pairs:
        _refuse_indefinite(covariance, star, path.name)
    units = tuple(element.unit for element in elements.values())
    flag = flagged(columns) if path.suffix == ".nc" and "flag" in columns.values else None
    return Abundances(star, tuple(elements), units, value, covariance, left_out, flag=flag)


def refuse_unfit(stars: Abundances, components: int, where: str) -> None:
    """Refuse stars that no mixture can be fitted to, wherever they come from.

    Args:
        stars: any.
        components: of the mixture.
        where: what messages call the table.

    Returns:
        Nothing.

    Errors:
        HbcalError for fewer stars than components, ids twice, covariances that are not positive definite, an element
        that is the same for all stars.

    Example:
        >>> refuse_unfit(tiny_abundances(), 12, "t.csv")
    """
    seen = np.isfinite(stars.value)
    n = int(seen.any(axis=1).sum())
    if n < components:
        raise HbcalError(
            f"{where} has {n} star(s) with any of {some(stars.elements)}, fewer than the {components} components of "
            "the mixture: give more stars, or fewer components, or check the columns that are read."
        )
    _refuse_twice(stars.star, where)
    _refuse_indefinite(np.where(seen[:, :, None] & seen[:, None, :], stars.covariance, 0.0), stars.star, where)
    for e, name in enumerate(stars.elements):
        values = stars.value[seen[:, e], e]
        if len(values) and not np.ptp(values) > 0:
            raise HbcalError(
                f"The element {name!r} is {values[0]:g} for all {len(values)} stars that have it: leave it out."
            )


def _element(columns: Columns, name: str, spec: ElementSpec, left_out: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values and variances of one element."""
    value = read_linear(columns, spec.value, "", "none", spec.unit)
    where = columns.path.name
    value, n_outside = in_range(value, spec.range, f"{name} of {where}", spec.unit)
    left_out[f"{name} outside its range"] += n_outside
    if not spec.error:
        return value, np.where(np.isfinite(value), np.nan, 0.0)
    error = np.mean([read_linear(columns, each, "", "none", spec.unit) for each in spec.error], axis=0)
    seen = np.isfinite(value)
    for bad, word, cure in (
        (error < 0, "negative", "correct or empty them"), (np.isinf(error), "infinite", "correct or empty them"),
        ((error == 0) & (spec.floor == 0), "zero", "correct or empty them, or give the element a floor"),
    ):  # fmt: skip
        n = int((bad & seen).sum())
        if n:
            row = columns.row[np.flatnonzero(bad & seen)[0]]
            raise HbcalError(f"{where} has {n} {word} error(s) of {name!r}, first in row {row}: {cure}.")
    untold = seen & ~np.isfinite(error)
    left_out[f"{name} without an error"] += int(untold.sum())
    value = np.where(untold, np.nan, value)
    return value, np.where(np.isfinite(value), np.nan_to_num(error) ** 2 + spec.floor**2, 0.0)


def _refuse_twice(star: np.ndarray, name: str) -> None:
    ids, n = np.unique(star.astype(str), return_counts=True)
    twice = ids[(n > 1) | (ids == "")]
    if len(twice):
        raise HbcalError(
            f"{name} has {len(twice)} id(s) that are empty or occur twice, {some(twice)}: keep one of each."
        )


def _refuse_indefinite(covariance: np.ndarray, star: np.ndarray, name: str) -> None:
    sd = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    sd = np.where(sd > 0, sd, 1.0)
    told = np.isfinite(covariance).all(axis=(1, 2))
    corr = np.where(told[:, None, None], covariance / sd[:, :, None] / sd[:, None, :], 0.0)
    bad = np.flatnonzero(~told | (np.linalg.eigvalsh(corr)[:, 0] < -1e-8))
    if len(bad):
        raise HbcalError(
            f"{name} has {len(bad)} covariance(s) that are not positive definite, first of star {star[bad[0]]!r}: "
            "correct them."
        )
