"""The shared label schema, an ``.nc`` with value(star, label) and covariance(star, label, label_2), read as columns."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError
from hbcal.catalogue.read import Columns
from hbcal.recipe import DataSpec, MeasurementSpec, Recipe
from hbcal.recipe_spec import CorrelationSpec

UNITS = {
    "teff": "K",
    **dict.fromkeys(("vmic", "vmicro", "vmac", "vmacro", "vbroad", "vsini", "vrad", "rv"), "km/s"),
    **dict.fromkeys(("a_v", "av", "a_k", "a_g", "e_bv", "ebv", "e_bp_rp"), "mag"),
    **dict.fromkeys(("age", "mass", "radius", "lum", "luminosity", "distance", "parallax", "numax", "dnu"), ""),
}  # as they are written most often, or none where habits differ
DEX = re.compile(r"logg|log_g|feh|mh|alpha.*|.*_(h|fe|m|mg)|[a-z][a-z]?")  # and of elements; of others none is known


def schema_columns(path: Path) -> tuple[list[str], Any]:
    """Names of the columns that a file of the schema stands for, and a function that loads some of them.

    They are ``star``, ``<label>`` and ``<label>_err`` per label, ``<label>_<label>_corr`` per pair of labels, and
    ``extrapolation`` and ``flag`` where the file has them.

    Args:
        path: what `hbcal.run.write_applied` writes, or anything of the same variables.

    Returns:
        Names; ``load(wanted)`` gives the columns and their units.

    Errors:
        HbcalError when the file is not of the schema; OSError when it cannot be read.

    Example:
        >>> import tempfile
        >>> from hbcal.run import write_applied
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_applied(tiny_correlated_run().apply(tiny_target_of_two(), "s1"), Path(folder) / "out.nc")
        ...     schema_columns(Path(folder) / "out.nc")[0]
        ['star', 'fe_h', 'fe_h_err', 'mg_h', 'mg_h_err', 'fe_h_mg_h_corr', 'extrapolation', 'flag']
    """
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as data:
        lacking = [name for name in ("value", "covariance") if name not in data]
        if lacking or "star" not in data.coords or data["covariance"].dims != ("star", "label", "label_2"):
            raise HbcalError(
                f"{path.name} is not of the label schema: it needs value(star, label) and covariance(star, label, "
                "label_2) with the stars' ids as coordinate; write it with hbcal apply --out FILE.nc."
            )
        labels = [str(label) for label in data["label"].values]
        stated = [unit.strip() for unit in str(data.attrs.get("units", "")).split(",")]
        more = [name for name in ("extrapolation", "flag") if name in data]
    pairs = list(combinations(labels, 2))
    names = ["star", *(name for label in labels for name in (label, f"{label}_err"))]
    names += [*(f"{first}_{second}_corr" for first, second in pairs), *more]
    units = dict(zip(labels, stated, strict=True)) if len(stated) == len(labels) else {}
    units |= {f"{label}_err": unit for label, unit in units.items()}

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            data = data[["value", "covariance", *more]].load()  # and no draws
        value, covariance = data["value"].to_numpy(), data["covariance"].to_numpy()
        variance = np.einsum("ill->il", covariance)
        if (variance < 0).any():
            n = int((variance < 0).sum())
            raise HbcalError(f"{path.name} has {n} negative variance(s): correct or empty them.")
        columns = {"star": data["star"].to_numpy(), **{name: data[name].to_numpy() for name in more}}
        for l, label in enumerate(labels):
            columns[label], columns[f"{label}_err"] = value[:, l], np.sqrt(variance[:, l])
        for first, second in pairs:
            l, m = labels.index(first), labels.index(second)
            with np.errstate(invalid="ignore", divide="ignore"):
                columns[f"{first}_{second}_corr"] = covariance[:, l, m] / np.sqrt(variance[:, l] * variance[:, m])
        return {n: pd.Series(columns[n]) for n in wanted}, {n: units[n] for n in wanted if units.get(n)}

    return names, load


def flagged(columns: Columns) -> np.ndarray:
    """Which stars of a file of the schema have labels that it does not trust.

    Args:
        columns: of the file, ``flag`` among them.

    Returns:
        (n_row,) bool. The words of `hbcal apply` are no flags: they say which label has no answer.

    Errors:
        None.

    Example:
        >>> flagged(Columns(Path("x.nc"), {"flag": np.array(["False", "True"])}, {}, np.arange(2))).tolist()
        [False, True]
    """
    return np.isin(columns.values["flag"].astype(str), ("True", "1", "1.0"))


def as_wide(entry: DataSpec, names: list[str], recipe: Recipe) -> DataSpec:
    """A data entry of layout ``labels`` as one of layout ``wide``: every label that the file and the recipe have.

    Args:
        entry: of the recipe.
        names: the file's columns.
        recipe: for its labels.

    Returns:
        The entry with measurements and correlations.

    Errors:
        HbcalError when the file has none of the recipe's labels.

    Example:
        >>> from hbcal import load_recipe
        >>> entry = DataSpec("x.nc", "labels", survey="s1")
        >>> wide = as_wide(entry, ["star", "fe_h", "fe_h_err"], load_recipe("textbook"))
        >>> wide.layout, wide.measurements[0].error
        ('wide', ('fe_h_err',))
    """
    labels = [label for label in names if label in recipe.labels]
    if not labels:
        raise HbcalError(
            f"{entry.file} has none of the recipe's labels ({', '.join(recipe.labels)}): rename its labels, or the "
            "recipe's."
        )
    measured = tuple(MeasurementSpec(entry.survey, label, label, (f"{label}_err",)) for label in labels)
    pairs = [(a, b) for a, b in combinations(labels, 2) if f"{a}_{b}_corr" in names]
    told = tuple(CorrelationSpec(entry.survey, pair, f"{pair[0]}_{pair[1]}_corr") for pair in pairs)
    return replace(entry, layout="wide", measurements=measured, correlations=told)


def usual_unit(label: str) -> str:
    """The unit in which a label is written most often.

    Args:
        label: its name, in small or capital letters.

    Returns:
        Empty where habits differ, or none is known.

    Errors:
        None.

    Example:
        >>> usual_unit("Teff"), usual_unit("mg_fe"), usual_unit("bp_rp")
        ('K', 'dex', '')
    """
    label = label.lower()
    return UNITS.get(label, "dex" if DEX.fullmatch(label) else "")
