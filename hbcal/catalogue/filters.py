"""Rows of a file that a recipe keeps: by the values of a column, or by their range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from hbcal._errors import HbcalError
from hbcal.catalogue.read import Columns, Kind


def filter_columns(keep: Mapping[str, tuple[Any, ...]], within: Mapping[str, tuple[float, float]]) -> dict[str, Kind]:
    """The columns that a recipe's filters look at.

    Args:
        keep: column -> values to keep.
        within: column -> (lowest, highest).

    Returns:
        Column name -> kind, as `read_columns` wants it.

    Errors:
        None.

    Example:
        >>> filter_columns({"flag": (0,)}, {"snr": (10.0, 1e9)})
        {'flag': 'number', 'snr': 'number'}
    """
    kinds: dict[str, Kind] = {
        name: "text" if any(isinstance(v, str) for v in values) else "number" for name, values in keep.items()
    }
    return kinds | dict.fromkeys(within, "number")


def filtered(
    columns: Columns,
    keep: Mapping[str, tuple[Any, ...]],
    within: Mapping[str, tuple[float, float]],
    left_out: Counter[str],
) -> Columns:
    """The rows that pass a recipe's filters.

    Args:
        columns: what was read.
        keep, within: as for `filter_columns`, columns' units.
        left_out: rows left out by reason; is added to.

    Returns:
        `Columns` with fewer rows.

    Errors:
        HbcalError when no row passes.

    Example:
        >>> from pathlib import Path
        >>> table, left_out = Columns(Path("t.csv"), {"snr": np.array([5.0, 50.0])}, {}, np.arange(1, 3)), Counter()
        >>> filtered(table, {}, {"snr": (10.0, 1e9)}, left_out).n_row, dict(left_out)
        (1, {'snr outside [10, 1e+09]': 1})
    """
    ok = np.ones(columns.n_row, bool)
    for name, allowed in keep.items():
        here = np.isin(columns.values[name].astype(object), np.array([*allowed], dtype=object))
        left_out[f"{name} not among the values kept"] += int((ok & ~here).sum())
        ok &= here
    for name, (low, high) in within.items():
        here = (columns.values[name] >= low) & (columns.values[name] <= high)
        left_out[f"{name} outside [{low:g}, {high:g}]"] += int((ok & ~here).sum())
        ok &= here
    if not ok.any():
        raise HbcalError(f"No row of {columns.path.name} passes the recipe's filters: loosen keep or within.")
    return columns.select(ok)
