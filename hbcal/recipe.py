"""Recipes: values only. Every table of a ``recipe.toml`` is one frozen dataclass here; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hbcal._errors import HbcalError, closest, some


@dataclass(frozen=True)
class LabelSpec:
    """A label: its unit, what can be true of it, and the scale of its priors in that unit.

    Exactly one of `offset_sd` (the prior sd itself) and `offset_scale` (half-normal scale of a learnt sd).
    """

    unit: str
    range: tuple[float, float] = (-float("inf"), float("inf"))
    offset_sd: float = 0.0
    offset_scale: float = 0.0
    floor_scale: float = 0.1


@dataclass(frozen=True)
class SurveySpec:
    """A survey: for which labels it is an anchor, and what of an anchor is nevertheless free."""

    anchor: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class CovariateSpec:
    """Something observed that offsets or floors may depend on.

    Numeric: u = (x - centre) / scale, from a column, or ``own`` (the value of that label the same survey reports), or
    ``consensus`` (median over the surveys of that label). Category: `levels`, and `missing` names the level of the stars
    without one. Flag: 1 where any of `bits` is set in an integer column.
    """

    unit: str = ""
    centre: float = 0.0
    scale: float = 1.0
    range: tuple[float, float] = (-float("inf"), float("inf"))
    own: str = ""
    consensus: str = ""
    levels: tuple[str, ...] = ()
    missing: str = ""
    bits: tuple[int, ...] = ()

    @property
    def all_levels(self) -> tuple[str, ...]:
        """Levels including the one of stars without a category."""
        return self.levels + ((self.missing,) if self.missing else ())


@dataclass(frozen=True)
class MeasurementSpec:
    """Columns of a wide table: a survey's value of a label, with one error column, two (lower, upper), or none."""

    survey: str
    label: str
    value: str
    error: tuple[str, ...] = ()
    transform: Literal["none", "log10"] = "none"
    unit: str = ""


@dataclass(frozen=True)
class ColumnSpec:
    """Where a covariate is read: a column, and the survey it belongs to (empty: a property of the star)."""

    column: str
    survey: str = ""
    unit: str = ""


@dataclass(frozen=True)
class DataSpec:
    """One file. ``long``: star, survey, label, value, error; ``wide``: one row per star; ``stars``: covariates only.

    `keep` and `within` filter rows by the values of a column; `missing` lists numbers that stand for "no value"; `visits`
    says that a star may have several rows, each a measurement of its own.
    """

    file: str
    layout: Literal["long", "wide", "stars"]
    star: str = "star"
    columns: Mapping[str, str] = field(default_factory=dict)
    measurements: tuple[MeasurementSpec, ...] = ()
    covariates: Mapping[str, ColumnSpec] = field(default_factory=dict)
    keep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    visits: bool = False
    missing: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrendSpec:
    """Offsets that depend on covariates: a basis, for some surveys and labels, per category where asked.

    Exactly one of `sd` (prior sd of a coefficient) and `scale` (half-normal scale of a learnt sd), label unit.
    """

    basis: str = "polynomial"
    covariates: tuple[str, ...] = ()
    per: str = ""
    surveys: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sd: float = 0.0
    scale: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FloorSpec:
    """A floor that is log-linear in covariates and may differ between the levels of a category."""

    basis: str = "polynomial"
    covariates: tuple[str, ...] = ()
    per: str = ""
    surveys: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PriorSpec:
    """Prior sd of a log error scale, and of each log-linear floor term."""

    error_scale: float = 0.3
    floor_trend: float = 0.5


@dataclass(frozen=True)
class SamplingSpec:
    """Default sampler settings of a recipe."""

    chains: int = 4
    warmup: int = 500
    draws: int = 1000
    target_accept: float = 0.8
    max_tree_depth: int = 8
    chunk: int = 100


@dataclass(frozen=True)
class SimulateSpec:
    """What a simulated data set looks like: stars, who sees them, their errors, covariates, and values held fixed."""

    n_star: int = 1000
    star_low: Mapping[str, float] = field(default_factory=dict)
    star_high: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    error_low: Mapping[str, float] = field(default_factory=dict)
    error_high: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A declared instance of a program: labels, surveys, covariates, data, trends, floors, priors, sampling."""

    name: str
    title: str
    labels: Mapping[str, LabelSpec]
    surveys: Mapping[str, SurveySpec]
    data: tuple[DataSpec, ...]
    program: Literal["crosscal"] = "crosscal"
    covariates: Mapping[str, CovariateSpec] = field(default_factory=dict)
    trend: tuple[TrendSpec, ...] = ()
    floor: tuple[FloorSpec, ...] = ()
    priors: PriorSpec = PriorSpec()
    sampling: SamplingSpec = SamplingSpec()
    simulate: SimulateSpec = SimulateSpec()
    clip: float = 0.0
    note: str = ""
    text: str = ""

    def unit(self, label: str) -> str:
        """Unit of a label."""
        return self.labels[label].unit


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
    path = Path(recipe)
    if path.suffix != ".toml":
        names = packaged_recipes()
        if str(recipe) not in names:
            raise HbcalError(
                f"There is no recipe {str(recipe)!r}{closest(str(recipe), names)}: give the path of a recipe.toml or "
                f"one of the packaged names {', '.join(sorted(names))}."
            )
        path = names[str(recipe)]
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise HbcalError(f"The recipe file {path} does not exist: check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise HbcalError(f"The recipe file {path} cannot be read as TOML: {error}.") from None
    return parse_recipe(table, text)


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
        text: the file's text, kept for the run's copy.

    Returns:
        The `Recipe`.

    Errors:
        HbcalError as `load_recipe`.

    Example:
        >>> parse_recipe({"nme": "x"})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe has an unknown key 'nme' (did you mean 'name'?).
    """
    recipe = _build(Recipe, {**table, "text": text}, "recipe")
    _check_names(recipe)
    return recipe


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn a TOML value into `kind`, or say where it does not fit."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise HbcalError(f"The {where} must be a table, not {value!r}.")
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
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
        return kind(**{k: _build(hints[k], v, f"{where} key {k!r}") for k, v in value.items()})
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
            return tuple(_build(k, v, where) for k, v in zip(inner, items, strict=True))
        return tuple(_build(inner[0], v, f"{where} entry {i + 1}") for i, v in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise HbcalError(f"The {where} must be a table, not {value!r}.")
        return {str(k): _build(inner[1], v, f"{where} entry {k!r}") for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = kind.__name__ if isinstance(kind, type | types.GenericAlias) else str(kind)
    raise HbcalError(f"The {where} must be of type {name}, not {value!r}.")


def _options(basis: Any, extra: dict[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    from hbcal.numerics.bases import BASES

    if basis not in BASES:
        raise HbcalError(f"The {where} names an unknown basis {basis!r}{closest(str(basis), BASES)}.")
    options = {**extra.pop("options", {}), **extra}
    for key in options:
        if key not in BASES[basis].options:
            allowed = set(BASES[basis].options) | (set(fields) - {"options"})
            raise HbcalError(f"The {where} has an unknown key {key!r}{closest(key, allowed)}.")
    return options


def _check_names(recipe: Recipe) -> None:
    """Everything a recipe mentions must be declared in it, and every prior must have a scale."""
    labels, surveys, covariates = recipe.labels, recipe.surveys, recipe.covariates

    def known(names: typing.Iterable[str], table: Mapping[str, Any], what: str, where: str) -> None:
        for name in names:
            if name and name not in table:
                raise HbcalError(f"The recipe's {where} names an unknown {what} {name!r}{closest(name, table)}.")

    for name, label in labels.items():
        if (label.offset_sd > 0) == (label.offset_scale > 0):
            raise HbcalError(
                f"Label {name!r} needs exactly one of offset_sd (the prior sd of a zero point) and offset_scale "
                f"(the scale of a learnt one), in {label.unit}, and it must be positive."
            )
        if label.floor_scale <= 0:
            raise HbcalError(f"Label {name!r} has floor_scale {label.floor_scale}: it must be positive.")
    for name, survey in surveys.items():
        known(survey.anchor, labels, "label", f"survey {name!r}")
        known(survey.free, {"error_scale": 0, "floor": 0}, "quantity to free", f"survey {name!r}")
    for name, covariate in covariates.items():
        known((covariate.own, covariate.consensus), labels, "label", f"covariate {name!r}")
        if covariate.scale <= 0:
            raise HbcalError(f"Covariate {name!r} has scale {covariate.scale}: it must be positive.")
        if len(set(covariate.all_levels)) != len(covariate.all_levels):
            raise HbcalError(f"Covariate {name!r} lists a level twice: {some(covariate.all_levels, 9)}.")
    for entry in recipe.data:
        known(entry.covariates, covariates, "covariate", f"data entry for {entry.file!r}")
        for measurement in entry.measurements:
            known((measurement.survey,), surveys, "survey", f"data entry for {entry.file!r}")
            known((measurement.label,), labels, "label", f"data entry for {entry.file!r}")
        for column in entry.covariates.values():
            known((column.survey,), surveys, "survey", f"data entry for {entry.file!r}")
        if entry.layout == "wide" and not entry.measurements:
            raise HbcalError(f"The data entry for {entry.file!r} is wide but lists no measurements: add them.")
    for kind, specs in (("trend", recipe.trend), ("floor", recipe.floor)):
        for spec in specs:
            known(spec.covariates, covariates, "covariate", kind)
            known((spec.per,), covariates, "covariate", kind)
            known(spec.surveys, surveys, "survey", kind)
            known(spec.labels, labels, "label", kind)
            for name in spec.covariates:
                if covariates[name].levels:
                    raise HbcalError(f"The recipe's {kind} lists category {name!r} as a covariate: use per = {name!r}.")
            if spec.per and not covariates[spec.per].levels:
                raise HbcalError(f"The recipe's {kind} has per = {spec.per!r}, which has no levels: give it some.")
            if not spec.covariates and not spec.per:
                raise HbcalError(f"A {kind} of the recipe names neither covariates nor a category: give it one.")
    for trend in recipe.trend:
        if (trend.sd > 0) == (trend.scale > 0):
            raise HbcalError("A trend of the recipe needs exactly one of sd and scale, positive, in the label's unit.")
    if len(surveys) < 2:
        raise HbcalError(f"The recipe declares {len(surveys)} survey: a calibration needs at least two.")
    if recipe.sampling.chains < 1 or recipe.sampling.draws < 4 or recipe.sampling.warmup < 1:
        raise HbcalError("The recipe's sampling needs chains >= 1, warmup >= 1 and draws >= 4.")
