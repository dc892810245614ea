"""The run's DataTree: posterior with named axes, sampler statistics, the data, everything with units and provenance."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue, Members
from hbcal.design import Prepared
from hbcal.terms import OFFSET

DIMS = {
    "offset": ("survey", "label"),
    "error_scale": ("survey", "label"),
    "floor": ("survey", "label"),
    "trend": ("survey", "label", "term"),
    "floor_trend": ("survey", "label", "floor_term"),
    "prior_sd": ("scale",),
    "outlier_rate": ("survey", "label"),
    "share": ("survey", "label"),
    "inherited_offset": ("survey", "label"),
    "inherited_floor": ("survey", "label"),
    "copy_odds": ("survey", "label", "parent"),
    "copy_offset": ("survey", "label", "parent"),
    "copy_sd": ("survey", "label", "parent"),
    "population_mean": ("group", "label"),
    "population_sd": ("group", "label"),
    "population_corr": ("group", "label", "label_2"),
    "cluster_mean": ("cluster", "label"),
    "correlation": ("survey", "label", "label_2"),
    "cluster_spread": ("kind", "label"),
}
IN_LABEL_UNITS = (
    "offset", "floor", "trend", "inherited_offset", "inherited_floor", "copy_offset", "copy_sd", "cluster_mean",
    "cluster_spread", "population_mean", "population_sd",
)  # fmt: skip


def axes(prepared: Prepared) -> dict[str, list[str]]:
    """Names along the axes of the quantities.

    Args:
        prepared: design and data.

    Returns:
        Axis -> names.

    Errors:
        None.

    Example:
        >>> axes(tiny_prepared())["term"]
        ['x1', 'x2']
    """
    cat, members = prepared.catalogue, prepared.catalogue.members
    return {
        "survey": list(cat.surveys),
        "label": list(cat.labels),
        "term": list(prepared.terms[1:]),
        "floor_term": list(prepared.floor_names),
        "scale": list(prepared.scales),
        "parent": list(cat.surveys),
        "group": list(prepared.groups.names),
        "label_2": list(cat.labels),
        "cluster": list(members.names) if members else [],
        "kind": list(prepared.recipe.clusters),
    }


def dataset(prepared: Prepared, quantities: dict[str, np.ndarray]) -> xr.Dataset:
    """Draws with named axes.

    Args:
        prepared: design and data.
        quantities: as `hbcal.design.named_quantities` gives them, label units.

    Returns:
        Dataset with dims (chain, draw, survey, label, ...), units in attrs.

    Errors:
        KeyError for a quantity that `DIMS` does not have.

    Example:
        >>> from hbcal.design import named_quantities
        >>> sites = {"coef_fe_h": np.zeros((2, 9, 6)), "error_scale": np.ones((2, 9, 2)), "floor": np.ones((2, 9, 2))}
        >>> dataset(tiny_prepared(), named_quantities(tiny_prepared(), sites))["trend"].dims
        ('chain', 'draw', 'survey', 'label', 'term')
    """
    recipe, cat = prepared.recipe, prepared.catalogue
    n_chain, n_draw = quantities["offset"].shape[:2]
    coords = {"chain": np.arange(n_chain), "draw": np.arange(n_draw), **axes(prepared)}
    posterior = {}
    for name, values in quantities.items():
        dims = ("chain", "draw", *DIMS[name])
        used = {d: coords[d] for d in dims}
        posterior[name] = xr.DataArray(values, dims=dims, coords=used)
    units = json.dumps({label: recipe.unit(label) for label in cat.labels})
    for name in IN_LABEL_UNITS:
        if name in posterior:
            posterior[name].attrs["units"] = units
    posterior["error_scale"].attrs["units"] = posterior["floor_trend"].attrs["units"] = "1"
    return xr.Dataset(posterior)


def terms_of(posterior: xr.Dataset) -> xr.DataArray:
    """Draws of zero points and trends as one array.

    Args:
        posterior: of a run, dims (chain, draw, survey, label, ...).

    Returns:
        (sample, survey, label, term), "offset" first, label units; NaN where there is no such term.

    Errors:
        KeyError when the posterior is not a run's.

    Example:
        >>> terms_of(tiny_run().posterior)["term"].values.tolist()
        ['offset', 'x1', 'x2']
    """
    offset = posterior["offset"].expand_dims(term=[OFFSET])
    both = xr.concat([offset, posterior["trend"]], dim="term", coords="minimal")
    return both.stack(sample=("chain", "draw")).transpose("sample", "survey", "label", "term")


def build_tree(
    prepared: Prepared, quantities: dict[str, np.ndarray], stats: dict[str, np.ndarray], attrs: dict[str, Any]
) -> xr.DataTree:
    """Package a run for ArviZ.

    Args:
        prepared: design and data.
        quantities: as `hbcal.design.named_quantities` gives them, label units.
        stats: sampler statistics, each (n_chain, n_draw).
        attrs: provenance, any JSON value each.

    Returns:
        DataTree with groups posterior, sample_stats, observed_data and constant_data.

    Errors:
        None.

    Example:
        >>> from hbcal.design import named_quantities
        >>> sites = {"coef_fe_h": np.zeros((2, 9, 6)), "error_scale": np.ones((2, 9, 2)), "floor": np.ones((2, 9, 2))}
        >>> tree = build_tree(tiny_prepared(), named_quantities(tiny_prepared(), sites), {}, {"seed": 0})
        >>> tree["posterior"]["offset"].dims, tree["posterior"]["offset"].attrs["units"]
        (('chain', 'draw', 'survey', 'label'), '{"fe_h": "dex"}')
    """
    cat = prepared.catalogue
    posterior = dataset(prepared, quantities)
    units = json.dumps({label: prepared.recipe.unit(label) for label in cat.labels})
    sample_stats = xr.Dataset({k: (("chain", "draw"), v) for k, v in stats.items()})
    observed = measurements(cat).assign_attrs(units=units)
    constant = xr.Dataset(
        {
            "x": (("star", "survey", "covariate"), cat.x),
            "star_level": ("covariate", cat.star_level.astype(np.int8)),
        },
        coords={"star": cat.stars.astype(str), "survey": list(cat.surveys), "covariate": list(cat.covariates)},
    )
    members = cat.members
    if members is not None:
        constant = constant.assign(
            cluster_of=("star", members.cluster), membership=("star", members.probability),
            cluster_kind=("cluster", np.array(members.kinds, dtype=str)),
        ).assign_coords(cluster=list(members.names))  # fmt: skip
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in attrs.items()}
    groups = {"posterior": posterior.assign_attrs(text), "sample_stats": sample_stats}
    return xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs=text), **groups, "observed_data": observed, "constant_data": constant}
    )


def measurements(cat: Catalogue) -> xr.Dataset:
    """The measurements of a catalogue, one per row.

    Args:
        cat: any, label units.

    Returns:
        ``value``, ``error`` and the indices ``star_of``, ``survey_of``, ``label_of``, (measurement,).

    Errors:
        None.

    Example:
        >>> sorted(measurements(tiny_sky().catalogue))
        ['error', 'label_of', 'star_of', 'survey_of', 'value']
    """
    names = {"value": "value", "error": "error", "star_of": "star", "survey_of": "survey", "label_of": "label"}
    data = xr.Dataset({name: ("measurement", getattr(cat, field)) for name, field in names.items()})
    if cat.visit is not None:
        data["visit"] = ("measurement", cat.visit)
    if cat.correlation is not None:  # beside the labels' own axis, which the posterior has
        data["correlation"] = (("measurement", "label"), cat.correlation)
    return data


def unclipped(tree: xr.DataTree) -> Catalogue:
    """The catalogue before the measurements that lay too far out were left out.

    Args:
        tree: a run's.

    Returns:
        `Catalogue` in the recipe's units, what was clipped at the end.

    Errors:
        KeyError when the run kept no clipped measurements.

    Example:
        >>> len(unclipped(tiny_run().tree).value) == len(tiny_run().catalogue.value)  # nothing was clipped
        True
    """
    cat, out = catalogue_of(tree), tree["clipped_data"].to_dataset()
    names = {"star": "star_of", "survey": "survey_of", "label": "label_of", "value": "value", "error": "error"}
    names |= {k: k for k in ("visit", "correlation") if k in out}
    both: dict[str, Any] = {k: np.concatenate([getattr(cat, k), out[v].to_numpy()]) for k, v in names.items()}
    return replace(cat, **both)


def catalogue_of(tree: xr.DataTree) -> Catalogue:
    """The catalogue a run was fitted to.

    Args:
        tree: as `build_tree` makes it.

    Returns:
        `Catalogue` in the recipe's units.

    Errors:
        KeyError when the tree is not a run's.

    Example:
        >>> catalogue_of(tiny_run().tree).digest() == tiny_prepared().catalogue.digest()
        True
    """
    data, fixed = tree["observed_data"].to_dataset(), tree["constant_data"].to_dataset()
    posterior = tree["posterior"].to_dataset()
    members = None
    if "cluster_of" in fixed:
        names, kinds = (tuple(map(str, fixed[k].values)) for k in ("cluster", "cluster_kind"))
        members = Members(names, kinds, fixed["cluster_of"].values, fixed["membership"].values)
    return Catalogue(
        stars=fixed["star"].values.astype(object),
        surveys=tuple(map(str, posterior["survey"].values)),
        labels=tuple(map(str, posterior["label"].values)),
        covariates=tuple(map(str, fixed["covariate"].values)),
        star=data["star_of"].values,
        survey=data["survey_of"].values,
        label=data["label_of"].values,
        value=data["value"].values,
        error=data["error"].values,
        x=fixed["x"].values,
        star_level=fixed["star_level"].values.astype(bool),
        members=members,
        visit=data["visit"].values if "visit" in data else None,
        correlation=data["correlation"].values if "correlation" in data else None,
    )
