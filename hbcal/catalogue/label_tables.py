"""Tables that say more of labels than spectra do: a sample of the population, and measurements of single stars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.label_schema import usual_unit
from hbcal.catalogue.read import SENTINELS, Columns, Kind, column_names, read_columns
from hbcal.catalogue.values import check_errors, refuse_repeats, to_unit

LEAST = 5  # rows of a sample for each label, whose covariance is to be known
NUMBER: Kind = "number"


@dataclass(frozen=True)
class KnownLabels:
    """Measurements of labels besides the spectra.

    Attributes:
        star: (n,) ids.
        value, err: (n, n_label), in the labels' units, NaN where not measured.
    """

    star: np.ndarray
    value: np.ndarray
    err: np.ndarray


def read_prior(path: Path, labels: tuple[str, ...]) -> np.ndarray:
    """The labels of a sample of the population that spectra come from.

    Args:
        path: a table with a column for each label; others are not read.
        labels: of the emulator.

    Returns:
        (n, n_label), in the units that labels have, see `in_usual_units`; rows that lack a label are left out.

    Errors:
        HbcalError for a table that cannot be read, lacks a label, or has fewer than 5 whole rows for each label.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prior.csv"
        ...     _ = path.write_text("fe_h\\n" + "\\n".join(map(str, range(6))))
        ...     read_prior(path, ("fe_h",)).shape
        (6, 1)
    """
    _refuse_missing(path, labels)
    values = in_usual_units(read_columns(path, dict.fromkeys(labels, NUMBER), SENTINELS))
    sample = np.stack([values[label] for label in labels], axis=1)
    whole = np.isfinite(sample).all(axis=1)
    if whole.sum() < LEAST * len(labels):
        raise HbcalError(
            f"{path.name} has {int(whole.sum())} of {len(whole)} row(s) with every label, and a prior of {len(labels)} "
            f"label(s) needs {LEAST * len(labels)}: give a larger sample of the population."
        )
    flat = [label for label, sd in zip(labels, sample[whole].std(axis=0), strict=True) if not sd > 0]
    if flat:
        raise HbcalError(
            f"{path.name} has the same {some(flat)} in every row: give a sample of the population, not one star of it."
        )
    return sample[whole]


def read_known(path: Path, labels: tuple[str, ...]) -> KnownLabels:
    """Measurements of single stars' labels besides their spectra.

    Args:
        path: a table with the column ``star`` and pairs ``<label>``, ``<label>_err``; a value or an error that is
            missing is no measurement.
        labels: of the emulator.

    Returns:
        `KnownLabels`, in the units that labels have, see `in_usual_units`.

    Errors:
        HbcalError for a table that cannot be read, a star that appears twice, a column that is no label of the emulator
            or lacks its error, an error that is not positive, and a table without a measurement.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "known.csv"
        ...     _ = path.write_text("star,logg,logg_err\\na,2.5,0.02\\n")
        ...     read_known(path, ("teff", "logg")).value.tolist()
        [[nan, 2.5]]
    """
    names = column_names(path)
    if "star" not in names:
        raise HbcalError(f"{path.name} has no column 'star': measurements are matched with spectra by it.")
    there = [name for name in names if name != "star" and not name.endswith("_err")]
    for name in there:
        if name not in labels:
            raise HbcalError(f"{path.name} has the column {name!r}, no label of the emulator{closest(name, labels)}.")
        if f"{name}_err" not in names:
            raise HbcalError(f"{path.name} has no column '{name}_err': a measurement of {name} needs its error.")
    for name in names:
        if name.endswith("_err") and name.removesuffix("_err") not in there:
            raise HbcalError(f"{path.name} has the column {name!r}, but none with the values it is the error of.")
    wanted: dict[str, Kind] = {"star": "text"}
    wanted |= {f"{name}{end}": NUMBER for name in there for end in ("", "_err")}
    found = in_usual_units(read_columns(path, wanted, SENTINELS))
    for name in there:
        check_errors(found[f"{name}_err"], f"{name}_err", path.name)
    refuse_repeats(found["star"], path.name)
    nothing = np.full(len(found["star"]), np.nan)
    value, err = (np.stack([found.get(f"{label}{end}", nothing) for label in labels], axis=1) for end in ("", "_err"))
    if not np.isfinite(value + err).any():
        raise HbcalError(f"{path.name} has no measurement, a label with its error: there is nothing to take from it.")
    return KnownLabels(found["star"].astype(str), value, err)


def in_usual_units(columns: Columns, units: Mapping[str, str] = {}) -> dict[str, np.ndarray]:
    """Columns of labels and their errors in the unit that each label has here, whatever unit the table states.

    Args:
        columns: of a table; one without a stated unit, or of a label whose unit is not known, stays as it is, and so
            does what is in dex, which is written in many ways.
        units: of labels that have another than the usual one.

    Returns:
        Values by name.

    Errors:
        HbcalError where a unit does not convert.

    Example:
        >>> in_usual_units(Columns(Path("t.ecsv"), {"teff": np.array([5.0])}, {"teff": "kK"}, np.arange(1)))["teff"]
        array([5000.])
    """
    found = dict(columns.values)
    for name, stated in columns.units.items():
        label = name.removesuffix("_err")
        want = units.get(label) or usual_unit(label)
        if name in found and want not in ("", "dex") and found[name].dtype.kind == "f":
            found[name] = to_unit(found[name], stated, want, f"column {name!r} of {columns.path.name}")
    return found


def _refuse_missing(path: Path, labels: tuple[str, ...]) -> None:
    names = column_names(path)
    lacking = [label for label in labels if label not in names]
    if lacking:
        raise HbcalError(
            f"{path.name} lacks {some(lacking)}: a prior needs a column for every label, {some(labels, 99)}."
        )
