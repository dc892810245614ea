"""What a recipe of populations declares, ``populations.toml``: elements, one table of stars, components, sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from hbcal._errors import HbcalError, some
from hbcal.recipe import build_table, read_toml


@dataclass(frozen=True)
class ElementSpec:
    """An abundance: its columns, unit, and what can be true of it.

    `error` is one column or two (lower, upper), or none where a calibration says how far off the values are; `floor` is
    added in quadrature, for errors that were rounded to 0.
    """

    value: str
    error: tuple[str, ...] = ()
    unit: str = "dex"
    range: tuple[float, float] = (-float("inf"), float("inf"))
    floor: float = 0.0


@dataclass(frozen=True)
class StarsSpec:
    """The table of stars. Rows are kept as in other recipes; of those, `subsample` are drawn at random (0: all).

    Without `star` the ids are the numbers of the rows. `missing` lists numbers that stand for "no value". `survey` says
    which survey of a calibration the stars are of. Stars that a file of the label schema flags take part, and are
    counted, unless ``keep = { flag = [false] }``.
    """

    file: str
    star: str = "star"
    keep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    missing: tuple[float, ...] = ()
    subsample: int = 0
    survey: str = ""


@dataclass(frozen=True)
class MixtureSpec:
    """The mixture: how many components are kept, and the numbers of `hbcal.programs.dp_mixture.MixturePriors`."""

    components: int = 10
    concentration: tuple[float, float] = (2.0, 4.0)
    mean: float = 1.5
    sd: tuple[float, float] = (0.4, 0.7)
    correlation: float = 1.0
    background: float = 0.01
    background_sd: float = 4.0


@dataclass(frozen=True)
class PopulationSampling:
    """Chains; for NUTS and the fast mode how many draws after how long a warmup, and how many sweeps before each.

    Chains that agree but have too few effective draws go on, until there are at most `extend` times as many.
    """

    chains: int = 4
    warmup: int = 400
    draws: int = 1000
    sweeps: int = 10
    target_accept: float = 0.8
    max_tree_depth: int = 7
    fast_warmup: int = 1000
    fast_draws: int = 2000
    fast_sweeps: int = 6
    extend: int = 4


@dataclass(frozen=True)
class PopulationRecipe:
    """Values only; see the recipes in ``hbcal/models``. `split_at`: the element at whose values others may part."""

    name: str
    title: str
    elements: Mapping[str, ElementSpec]
    stars: StarsSpec
    mixture: MixtureSpec = MixtureSpec()
    sampling: PopulationSampling = PopulationSampling()
    split_at: str = "fe_h"
    text: str = ""


def load_populations(recipe: str | Path) -> PopulationRecipe:
    """Read a recipe of populations from a file, or by the name of a packaged one.

    Args:
        recipe: path of a ``.toml`` file, or a name such as ``"halo_populations"``.

    Returns:
        The checked `PopulationRecipe`.

    Errors:
        HbcalError for a missing file, a syntax error, an unknown or missing key, or a value that cannot be used.

    Example:
        >>> list(load_populations("halo_populations").elements)[:2]
        ['fe_h', 'mg_fe']
    """
    return parse_populations(*read_toml(recipe, packaged_populations(), "recipe of populations", ".toml file"))


def packaged_populations() -> dict[str, Path]:
    """Names and paths of the recipes of populations that come with hbcal.

    Args:
        None.

    Returns:
        Path of each packaged ``populations.toml`` by name.

    Errors:
        None.

    Example:
        >>> "disc_populations" in packaged_populations()
        True
    """
    home = Path(__file__).parent / "models"
    return {path.parent.name: path for path in sorted(home.glob("*/populations.toml"))}


def parse_populations(table: Mapping[str, Any], text: str = "") -> PopulationRecipe:
    """Check a recipe of populations given as nested tables.

    Args:
        table: what a TOML file holds.
        text: the file's text; written out where there is no file.

    Returns:
        The `PopulationRecipe`.

    Errors:
        HbcalError as `load_populations`.

    Example:
        >>> parse_populations({"name": "x", "title": "x", "elements": {}, "stars": {"file": "t.csv"}})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe declares no element: add an [elements.<name>] table.
    """
    recipe = build_table(PopulationRecipe, {**table, "text": text}, "recipe")
    _check(recipe)
    return recipe if text else dataclasses.replace(recipe, text=tomli_w.dumps(table))


def _check(recipe: PopulationRecipe) -> None:
    if not recipe.elements:
        raise HbcalError("The recipe declares no element: add an [elements.<name>] table.")
    if len(recipe.elements) < 2:
        raise HbcalError(f"The recipe declares the one element {some(recipe.elements)}: a mixture needs two or more.")
    for name, spec in recipe.elements.items():
        where = f"The recipe's element {name!r}"
        if len(spec.error) > 2:
            raise HbcalError(f"{where} lists {len(spec.error)} error columns: give one, or two (lower, upper).")
        if not spec.error and not recipe.stars.survey:
            raise HbcalError(
                f"{where} has no error column: give one, or two (lower, upper); or, for values that a calibration "
                "knows the scatter of, set survey in [stars] and give --from-calibration."
            )
        if not spec.range[0] < spec.range[1]:
            raise HbcalError(f"{where} has the range {list(spec.range)}: it must be [low, high], low < high.")
        if not 0 <= spec.floor < math.inf:
            raise HbcalError(f"{where} has the floor {spec.floor}: it must be 0 (none) or positive.")
        if spec.floor and not spec.error:
            raise HbcalError(f"{where} has a floor but no error column that it adds to: name one, or drop the floor.")
    mixture, sampling = recipe.mixture, recipe.sampling
    positive = {"concentration": mixture.concentration, "mean": (mixture.mean,), "sd": mixture.sd}
    positive |= {"correlation": (mixture.correlation,), "background_sd": (mixture.background_sd,)}
    for key, values in positive.items():
        if not all(0 < value < math.inf for value in values):
            raise HbcalError(f"The recipe's mixture has {key} = {list(values)}: it must be positive and finite.")
    if not 0 < mixture.background < 0.5:
        raise HbcalError(f"The recipe's mixture has background = {mixture.background}: give a share, 0 to 0.5.")
    if mixture.components < 2:
        raise HbcalError(f"The recipe's mixture has components = {mixture.components}: it must be at least 2.")
    if recipe.stars.subsample < 0:
        raise HbcalError(f"The recipe's subsample is {recipe.stars.subsample}: give 0 (all) or a number of stars.")
    for name, least in {"chains": 1, "warmup": 1, "draws": 4, "sweeps": 1, "max_tree_depth": 1, "fast_warmup": 1,
                        "fast_draws": 4, "fast_sweeps": 1, "extend": 1}.items():  # fmt: skip
        if getattr(sampling, name) < least:
            raise HbcalError(
                f"The recipe's sampling has {name} = {getattr(sampling, name)}: it must be at least {least}."
            )
    if not 0 < sampling.target_accept < 1:
        raise HbcalError(f"The recipe's sampling has target_accept = {sampling.target_accept}: give 0 to 1.")
