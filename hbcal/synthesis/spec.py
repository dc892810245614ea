"""The file that declares a grid of spectra: values only."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hbcal._errors import HbcalError
from hbcal.recipe import build_table
from hbcal.synthesis.control import check_window


@dataclass(frozen=True)
class WindowSpec:
    """Which wavelengths.

    Attributes:
        low, high, step: Angstrom (air).
        resolution: resolving power of a Gaussian to broaden with, 0 for none.
        margin: computed beyond each end and cut off, Angstrom. Turbospectrum knows only lines up to 2 Angstrom outside
            its window: this brings the wings of the strong ones further out.
    """

    low: float
    high: float
    step: float
    resolution: float = 0.0
    margin: float = 10.0

    @property
    def grid(self) -> tuple[float, float, float]:
        """(low, high, step), as the programs are told."""
        return self.low, self.high, self.step


@dataclass(frozen=True)
class LinesSpec:
    """Files of line lists; "DATA/..." is Turbospectrum's own folder. Isotopes: fractions, such as "6.012" = 0.94."""

    files: tuple[str, ...]
    isotopes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AtmospheresSpec:
    """Folder of MARCS models; kind of transfer; what becomes of a star that no models surround."""

    folder: str
    geometry: Literal["spherical", "plane_parallel"] = "spherical"
    outside: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class DrawSpec:
    """Labels drawn evenly between low and high: how many stars, and the seed."""

    n: int = 0
    seed: int = 0
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GridSpec:
    """A grid of spectra; the stars come from exactly one of `axes`, `stars`, `table` and `draw`.

    Attributes:
        name: stars are called after it.
        axes: values of each label; every combination is a star.
        stars: labels of each star.
        table: CSV file with a column for each label, and perhaps one called star.
        draw: labels at random.
        microturbulence, alpha: relations for what is no label, see `hbcal.synthesis.relations`.
    """

    name: str
    window: WindowSpec
    lines: LinesSpec
    atmospheres: AtmospheresSpec
    axes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stars: tuple[Mapping[str, float], ...] = ()
    table: str = ""
    draw: DrawSpec = field(default_factory=DrawSpec)
    microturbulence: Literal["holtzman2018"] = "holtzman2018"
    alpha: Literal["solar", "marcs"] = "solar"


def load_grid(path: Path) -> GridSpec:
    """Read the file of a grid.

    Args:
        path: a TOML file; its relative paths are taken from the folder it is in.

    Returns:
        The checked declaration, every path absolute but those into Turbospectrum's "DATA/".

    Errors:
        HbcalError for a missing file, a syntax error, an unknown key (with the closest that is known), a value of the
        wrong kind, a reversed window.

    Example:
        >>> load_grid(Path("nowhere.toml"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The file of the grid nowhere.toml does not exist: check the path.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HbcalError(f"The file of the grid {path} does not exist: check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise HbcalError(f"The file of the grid {path} cannot be read as TOML: {error}.") from None
    return parse_grid(table, path.parent.resolve())


def parse_grid(table: Mapping[str, Any], folder: Path) -> GridSpec:
    """Check a grid given as nested tables.

    Args:
        table: what a TOML file holds.
        folder: where relative paths start.

    Returns:
        The declaration.

    Errors:
        HbcalError as `load_grid`.

    Example:
        >>> parse_grid({"nme": "x"}, Path())
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The grid has an unknown key 'nme' (did you mean 'name'?).
    """
    spec: GridSpec = build_table(GridSpec, table, "grid")
    check_window(spec.window.grid)
    if not spec.window.resolution >= 0:
        raise HbcalError(f"The grid's resolution is {spec.window.resolution:g}: give a positive number, or 0 for none.")
    if not 0 <= spec.window.margin < spec.window.low:
        raise HbcalError(
            f"The grid's margin is {spec.window.margin:g}: give 0 or more, in Angstrom, and less than low."
        )
    if not spec.lines.files:
        raise HbcalError("The grid's lines name no files: name a line list, and DATA/Hlinedata for hydrogen.")
    kinds = [name for name in ("axes", "stars", "table") if getattr(spec, name)] + (["draw"] if spec.draw.n else [])
    if len(kinds) != 1:
        told = " and ".join(kinds) or "none"
        raise HbcalError(
            f"The grid has {told} of axes, stars, table and draw: give exactly one, that says which stars."
        )
    files = tuple(name if name.startswith("DATA/") else str(folder / name) for name in spec.lines.files)
    return dataclasses.replace(
        spec,
        lines=dataclasses.replace(spec.lines, files=files),
        atmospheres=dataclasses.replace(spec.atmospheres, folder=str(folder / spec.atmospheres.folder)),
        table=spec.table and str(folder / spec.table),
    )
