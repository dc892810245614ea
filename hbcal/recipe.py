"""Read a recipe: values only, from TOML to the dataclasses of `hbcal.recipe_spec`; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w

from hbcal._errors import HbcalError, closest
from hbcal.recipe_check import check_recipe
from hbcal.recipe_spec import (
    ColumnSpec,
    CovariateSpec,
    DataSpec,
    FloorSpec,
    MeasurementSpec,
    Recipe,
    SamplingSpec,
    TrendSpec,
)  # fmt: skip

__all__ = [
    "ColumnSpec", "CovariateSpec", "DataSpec", "FloorSpec", "MeasurementSpec", "Recipe", "SamplingSpec", "TrendSpec",
    "build_table", "load_recipe", "packaged_recipes", "parse_recipe",
]  # fmt: skip


def load_recipe(recipe: str | Path) -> Recipe:
    """Read a recipe from a file, or by the name of a packaged one.

    Args:
        recipe: path of a ``recipe.toml``, or a name such as ``"kepler_giants"``.

    Returns:
        The checked `Recipe`; labels and covariates carry their units.

    Errors:
        HbcalError for a missing file, a syntax error, an unknown or missing key, a value of the wrong kind, a name that
        nothing declares: each says where, and the closest valid name.

    Example:
        >>> load_recipe("textbook").labels["fe_h"].unit
        'dex'
    """
    return parse_recipe(*read_toml(recipe, packaged_recipes(), "recipe", "recipe.toml"))


def read_toml(recipe: str | Path, packaged: Mapping[str, Path], kind: str, file: str) -> tuple[dict[str, Any], str]:
    """The tables of a recipe's file, and its text.

    Args:
        recipe: path of a ``.toml``, or the name of a packaged one.
        packaged: name -> path.
        kind, file: what it is, and what its file is called, for the messages.

    Returns:
        Nested tables, and the text they were read from.

    Errors:
        HbcalError for an unknown name, a missing file, or one that is not TOML.

    Example:
        >>> read_toml("textbook", packaged_recipes(), "recipe", "recipe.toml")[0]["name"]
        'textbook'
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        if str(recipe) not in packaged:
            raise HbcalError(
                f"There is no {kind} {str(recipe)!r}{closest(str(recipe), packaged)}: give the path of a {file} or "
                f"one of the packaged names {', '.join(sorted(packaged))}."
            )
        path = packaged[str(recipe)]
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except FileNotFoundError:
        raise HbcalError(f"The recipe file {path} does not exist: check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise HbcalError(f"The recipe file {path} cannot be read as TOML: {error}.") from None


def packaged_recipes() -> dict[str, Path]:
    """Names and paths of the recipes that come with hbcal.

    Args:
        None.

    Returns:
        Path of each packaged ``recipe.toml`` by name; dimensionless.

    Errors:
        None.

    Example:
        >>> "kepler_giants" in packaged_recipes()
        True
    """
    home = Path(__file__).parent / "models"
    return {path.parent.name: path for path in sorted(home.glob("*/recipe.toml"))}


def parse_recipe(table: Mapping[str, Any], text: str = "") -> Recipe:
    """Check a recipe given as nested tables.

    Args:
        table: what a TOML file holds.
        text: the file's text, kept for the run's copy; written out where there is no file.

    Returns:
        The `Recipe`.

    Errors:
        HbcalError as `load_recipe`.

    Example:
        >>> parse_recipe({"nme": "x"})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe has an unknown key 'nme' (did you mean 'name'?).
    """
    recipe = build_table(Recipe, {**table, "text": text}, "recipe")
    check_recipe(recipe)
    return recipe if text else dataclasses.replace(recipe, text=tomli_w.dumps(table))


def build_table(kind: Any, value: Any, where: str) -> Any:
    """Turn a TOML value into what a dataclass declares, or say where it does not fit.

    Args:
        kind: a dataclass, or the type of one of its fields.
        value: what TOML holds.
        where: what it is, for the messages.

    Returns:
        An instance of `kind`.

    Errors:
        HbcalError for an unknown or missing key or a value of another type.

    Example:
        >>> build_table(SamplingSpec, {"chain": 2}, "recipe key 'sampling'")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe key 'sampling' has an unknown key 'chain' (did you mean 'chains'?).
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise HbcalError(f"The {where} must be a table, not {value!r}.")
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        make: Any = kind
        value = dict(value)
        if "options" in fields:  # a basis' own settings stand beside the trend's
            extra = {k: value.pop(k) for k in list(value) if k not in fields or k == "options"}
            value["options"] = _options(value.get("basis", "polynomial"), extra, fields, where)
        for key in value:
            if key not in fields:
                raise HbcalError(f"The {where} has an unknown key {key!r}{closest(key, set(fields) - {'text'})}.")
        for f in fields.values():
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and f.name not in value:
                raise HbcalError(f"The {where} lacks the key {f.name!r}: add it.")
        return make(**{k: build_table(hints[k], v, f"{where} key {k!r}") for k, v in value.items()})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in inner:
            raise HbcalError(f"The {where} is {value!r}{closest(str(value), inner)}.")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        if len(inner) == 2 and inner[1] is not Ellipsis:
            if len(items) != 2:
                raise HbcalError(f"The {where} must be a pair [low, high], not {value!r}.")
            return tuple(build_table(k, v, where) for k, v in zip(inner, items, strict=True))
        return tuple(build_table(inner[0], v, f"{where} entry {i + 1}") for i, v in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise HbcalError(f"The {where} must be a table, not {value!r}.")
        return {str(k): build_table(inner[1], v, f"{where} entry {k!r}") for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = kind.__name__ if isinstance(kind, type | types.GenericAlias) else str(kind)
    raise HbcalError(f"The {where} must be of type {name}, not {value!r}.")


def _options(basis: Any, extra: dict[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A basis' own settings: known names, of the type of their defaults, and values the basis takes."""
    from hbcal.numerics.bases import BASES

    if not isinstance(basis, str) or basis not in BASES:
        raise HbcalError(f"The {where} names an unknown basis {basis!r}{closest(str(basis), BASES)}.")
    given = extra.pop("options", {})
    if not isinstance(given, Mapping):
        raise HbcalError(f"The {where} key 'options' must be a table, not {given!r}.")
    options = {**given, **extra}
    defaults = inspect.signature(BASES[basis].build).parameters
    for key, value in options.items():
        if key not in BASES[basis].options:
            allowed = set(BASES[basis].options) | (set(fields) - {"options"})
            raise HbcalError(f"The {where} has an unknown key {key!r}{closest(key, allowed)}.")
        options[key] = build_table(type(defaults[key].default), value, f"{where} key {key!r}")
    try:
        BASES[basis].build(np.zeros((1, 1)), ["x"], **options)
    except ValueError as error:
        raise HbcalError(f"The {where} does not fit its basis: {str(error).rstrip('.')}.") from None
    return options
