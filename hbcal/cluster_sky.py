"""Simulated clusters: who is listed in which, what true members share, and the lists as files."""

from __future__ import annotations

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue, Members
from hbcal.recipe import Recipe
from hbcal.recipe_spec import ClusterSpec


def listed_members(recipe: Recipe, rng: np.random.Generator, n_star: int) -> Members | None:
    """Draw who is listed in which cluster, and how surely.

    Args:
        recipe: with its clusters and what it says of simulated ones.
        rng: of the random numbers.
        n_star: how many stars there are.

    Returns:
        `Members`; None for a recipe without clusters.

    Errors:
        None.

    Example:
        >>> members = listed_members(tiny_clusters().recipe, np.random.default_rng(0), 100)
        >>> members.names, int(members.of_kind("open").sum())
        (('open0', 'open1', 'open2'), 80)
    """
    if not recipe.clusters:
        return None
    spec, names, kinds = recipe.simulate, list[str](), list[str]()
    cluster, probability, free = np.full(n_star, -1), np.full(n_star, np.nan), rng.permutation(n_star)
    for kind, table in recipe.clusters.items():
        n, share = spec.n_cluster.get(kind, 10), spec.listed.get(kind, 0.8 / len(recipe.clusters))
        here, free = np.split(free, [round(share * n_star)])
        cluster[here] = len(names) + np.arange(len(here)) % n
        low = spec.membership_low.get(kind, 0.9) if table.probability else 1.0
        probability[here] = rng.uniform(low, 1.0, len(here))
        names += [f"{kind}{g}" for g in range(n)]
        kinds += [kind] * n
    return Members(tuple(names), tuple(kinds), cluster, probability)


def z_range(recipe: Recipe, label: str) -> tuple[float, float]:
    """Between which values true labels are drawn.

    Args:
        recipe: with what it says of simulated stars.
        label: which.

    Returns:
        Lowest and highest, label unit; 0 and 1 where the recipe says nothing.

    Errors:
        None.

    Example:
        >>> z_range(tiny_clusters().recipe, "fe_h")
        (-1.0, 0.5)
    """
    spec = recipe.simulate
    return spec.star_low.get(f"z.{label}", 0.0), spec.star_high.get(f"z.{label}", 1.0)


def gathered(
    recipe: Recipe, catalogue: Catalogue, truth: xr.Dataset, rng: np.random.Generator, z: np.ndarray
) -> np.ndarray:
    """Give true members their cluster's labels; those listed by mistake stay what they are.

    Args:
        recipe: with its clusters.
        catalogue: with its members.
        truth: with ``cluster_mean`` and ``cluster_spread``, one draw, label units.
        rng: of the random numbers; without members none is drawn.
        z: true labels, (n_star, n_label), label units.

    Returns:
        True labels, (n_star, n_label).

    Errors:
        None.

    Example:
        >>> run = tiny_cluster_run()
        >>> z = np.zeros((run.catalogue.n_star, 1))
        >>> truth = run.posterior.isel(chain=[0], draw=[0])
        >>> moved = gathered(run.recipe, run.catalogue, truth, np.random.default_rng(0), z)
        >>> np.array_equal(moved[:, 0] != 0.0, run.catalogue.members.cluster >= 0)
        True
    """
    members, z = catalogue.members, z.copy()
    if members is None:
        return z
    right = rng.random(len(z)) < np.nan_to_num(members.probability)
    for kind, spec in recipe.clusters.items():
        at = np.flatnonzero(right & members.of_kind(kind))
        for label in spec.spread:
            mean = truth["cluster_mean"].sel(label=label).to_numpy()[0, 0, members.cluster[at]]
            spread = float(truth["cluster_spread"].sel(label=label, kind=kind).squeeze())
            drawn = mean + spread * rng.normal(size=len(at))
            l = catalogue.labels.index(label)
            z[at, l] = np.where(np.isfinite(drawn), drawn, z[at, l])
    return z


def member_table(catalogue: Catalogue, kind: str, spec: ClusterSpec) -> dict[str, np.ndarray]:
    """The list of members of a kind, a row per star, with the columns that a recipe reads.

    Args:
        catalogue: with its members.
        kind, spec: of the clusters.

    Returns:
        Column -> (n_star,); no cluster for the stars of none, and values that pass the recipe's filters.

    Errors:
        None.

    Example:
        >>> cat = tiny_clusters().catalogue
        >>> list(member_table(cat, "open", tiny_clusters().recipe.clusters["open"]))
        ['star', 'cluster']
    """
    members = catalogue.members
    assert members is not None
    of_kind = members.of_kind(kind)
    named = np.where(of_kind, np.append(members.names, "")[members.cluster], "")
    out = {spec.star: catalogue.stars, spec.cluster: named.astype(object)}
    if spec.probability:
        out[spec.probability] = np.where(of_kind, members.probability, 1.0)
    for name, allowed in spec.keep.items():
        out[name] = np.full(catalogue.n_star, allowed[0], dtype=object)
    return {name: np.full(catalogue.n_star, limits[0]) for name, limits in spec.within.items()} | out
