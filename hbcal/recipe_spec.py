"""What a recipe declares: every table of a ``recipe.toml`` is one frozen dataclass here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class LabelSpec:
    """A label: its unit, what can be true of it, and the scale of its priors in that unit.

    Exactly one of `offset_sd` (the prior sd itself) and `offset_scale` (half-normal scale of a learnt sd). For
    crosscal_structural alone, `population`: [centre, scale], about where the stars' true values lie and how wide.
    """

    unit: str
    range: tuple[float, float] = (-float("inf"), float("inf"))
    offset_sd: float = 0.0
    offset_scale: float = 0.0
    floor_scale: float = 0.1
    population: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class SurveySpec:
    """A survey: for which labels it is an anchor, and what of an anchor is nevertheless free.

    `depends_on` names the surveys whose values it compiles, or whose spectra it reduces again: it is calibrated and
    predicted, and never votes. `own_scale` lists labels for which it shares no star with another voting survey: nothing
    ties its zero point, but surveys that depend on others can still be calibrated against it. `correlated` lists
    labels between whose errors crosscal_correlated fits a correlation, the same for all stars.
    """

    anchor: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    title: str = ""
    depends_on: tuple[str, ...] = ()
    own_scale: tuple[str, ...] = ()
    correlated: tuple[str, ...] = ()


@dataclass(frozen=True)
class CovariateSpec:
    """Something observed that offsets or floors may depend on.

    Numeric: u = (x - centre) / scale, from a column, or ``own`` (the value of that label the same survey reports), or
    ``consensus`` (median over the surveys of that label), or ``true`` (the star's true value of that label, which
    crosscal_structural infers). Category: `levels`, and `missing` names the level of the stars without one. Flag: 1
    where any of `bits` is set in an integer column.
    """

    unit: str = ""
    centre: float = 0.0
    scale: float = 1.0
    range: tuple[float, float] = (-float("inf"), float("inf"))
    own: str = ""
    consensus: str = ""
    true: str = ""
    levels: tuple[str, ...] = ()
    missing: str = ""
    bits: tuple[int, ...] = ()

    @property
    def all_levels(self) -> tuple[str, ...]:
        """Levels including the one of stars without a category."""
        return self.levels + ((self.missing,) if self.missing else ())


@dataclass(frozen=True)
class MeasurementSpec:
    """Columns of a wide table: a survey's value of a label, with one error column, two (lower, upper), or none.

    `unit` is the column's where the file states none; with ``log10``, the unit whose number the logarithm is taken of.
    """

    survey: str
    label: str
    value: str
    error: tuple[str, ...] = ()
    transform: Literal["none", "log10"] = "none"
    unit: str = ""


@dataclass(frozen=True)
class CorrelationSpec:
    """A column of a wide table that says how the errors of two labels of a survey go together.

    It holds their correlation, or with ``kind = "covariance"`` their covariance, in the product of the labels' units.
    """

    survey: str
    labels: tuple[str, str]
    column: str
    kind: Literal["correlation", "covariance"] = "correlation"


@dataclass(frozen=True)
class ColumnSpec:
    """Where a covariate is read: a column, its unit, and the survey it belongs to (empty: a property of the star)."""

    column: str
    survey: str = ""
    unit: str = ""
    transform: Literal["none", "log10"] = "none"


@dataclass(frozen=True)
class DataSpec:
    """One file. ``long``: star, survey, label, value, error; ``wide``: one row per star; ``stars``: covariates only;
    ``labels``: an ``.nc`` of the shared label schema, all of it of one `survey`.

    `keep` and `within` filter rows by the values of a column; `missing` lists numbers that stand for "no value";
    `visits` says that a star may have several rows, each a measurement of its own.
    """

    file: str
    layout: Literal["long", "wide", "stars", "labels"]
    star: str = "star"
    columns: Mapping[str, str] = field(default_factory=dict)
    measurements: tuple[MeasurementSpec, ...] = ()
    covariates: Mapping[str, ColumnSpec] = field(default_factory=dict)
    keep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    visits: bool = False
    missing: tuple[float, ...] = ()
    correlations: tuple[CorrelationSpec, ...] = ()
    survey: str = ""


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
class ClusterSpec:
    """A table of one kind of star clusters: star, cluster, and the probability that the star is a member.

    Members share the labels listed in `spread`, up to a scatter within the cluster of which `spread` gives the prior
    scale, label unit. Without a column `probability` members are certain; `crosscal` leaves those below `least` out.
    `visits` says that a star may have several rows, all of one cluster; a row without a cluster is a field star.
    """

    file: str
    spread: Mapping[str, float]
    star: str = "star"
    cluster: str = "cluster"
    probability: str = ""
    least: float = 0.5
    keep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    visits: bool = False


@dataclass(frozen=True)
class PriorSpec:
    """Prior sd of a log error scale, of each log-linear floor term; prior mean of a survey's share of outliers."""

    error_scale: float = 0.3
    floor_trend: float = 0.5
    outlier_rate: float = 0.03


@dataclass(frozen=True)
class SamplingSpec:
    """Default sampler settings of a recipe."""

    chains: int = 4
    warmup: int = 500
    draws: int = 1000
    target_accept: float = 0.8
    max_tree_depth: int = 8
    thin: int = 1
    chunk: int = 100


@dataclass(frozen=True)
class SimulateSpec:
    """What a simulated data set looks like: stars, who sees them, their errors, covariates, and values held fixed.

    Of each kind of clusters: how many there are, the share of all stars on its list, and the lowest probability of
    membership on it; probabilities are uniform from there to 1, and that share of the stars are members. `correlation`:
    "survey.label.label" -> that of the reported errors, where the recipe reads correlations; 0 where it says nothing.
    """

    n_star: int = 1000
    star_low: Mapping[str, float] = field(default_factory=dict)
    star_high: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    error_low: Mapping[str, float] = field(default_factory=dict)
    error_high: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    n_cluster: Mapping[str, int] = field(default_factory=dict)
    listed: Mapping[str, float] = field(default_factory=dict)
    membership_low: Mapping[str, float] = field(default_factory=dict)
    correlation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A declared instance of a program: labels, surveys, clusters, data, trends, floors, priors, sampling."""

    name: str
    title: str
    labels: Mapping[str, LabelSpec]
    surveys: Mapping[str, SurveySpec]
    data: tuple[DataSpec, ...]
    program: Literal["crosscal", "crosscal_correlated", "crosscal_robust", "crosscal_structural"] = "crosscal"
    covariates: Mapping[str, CovariateSpec] = field(default_factory=dict)
    trend: tuple[TrendSpec, ...] = ()
    floor: tuple[FloorSpec, ...] = ()
    clusters: Mapping[str, ClusterSpec] = field(default_factory=dict)
    priors: PriorSpec = PriorSpec()
    sampling: SamplingSpec = SamplingSpec()
    simulate: SimulateSpec = SimulateSpec()
    clip: float = 0.0
    note: str = ""
    text: str = ""

    def unit(self, label: str) -> str:
        """Unit of a label."""
        return self.labels[label].unit

    def votes(self, survey: str, label: str) -> bool:
        """Whether a survey's measurements of a label help to decide what the true label is, on the common scale."""
        spec = self.surveys[survey]
        return not spec.depends_on and label not in spec.own_scale

    @property
    def dependent(self) -> tuple[str, ...]:
        """Surveys that depend on others."""
        return tuple(name for name, spec in self.surveys.items() if spec.depends_on)
