"""Read who is a member of which star cluster, and refuse lists that contradict themselves or the catalogue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, some
from hbcal.catalogue.catalogue import Catalogue, Members
from hbcal.catalogue.filters import filter_columns, filtered
from hbcal.catalogue.read import Columns, Kind, read_columns, sha256
from hbcal.recipe import Recipe
from hbcal.recipe_spec import ClusterSpec


def with_members(recipe: Recipe, folder: Path, catalogue: Catalogue) -> Catalogue:
    """Add the members of the clusters that a recipe names.

    Args:
        recipe: names the tables.
        folder: where they are.
        catalogue: what the surveys measured.

    Returns:
        The `Catalogue` with `members`; the same where the recipe names no clusters.

    Errors:
        HbcalError for a table that cannot be read, a probability outside 0 to 1 or missing, a star that is listed twice
        or in two clusters, a cluster named like a survey, a table without a star that was measured.

    Example:
        >>> with_members(tiny_run().recipe, tiny_folder(), tiny_sky().catalogue).members is None
        True
    """
    if not recipe.clusters:
        return catalogue
    left_out, sources, tables = Counter(catalogue.left_out), list(catalogue.sources), []
    index = pd.Index(catalogue.stars.astype(str))
    for kind, spec in recipe.clusters.items():
        path = folder / spec.file
        wanted: dict[str, Kind] = {spec.star: "text", spec.cluster: "text"}
        if spec.probability:
            wanted[spec.probability] = "number"
        columns = read_columns(path, filter_columns(spec.keep, spec.within) | wanted)
        if spec.file not in [source["file"] for source in sources]:
            sources.append({"file": spec.file, "rows": columns.n_row, "sha256": sha256(path)})
        rows = _rows(filtered(columns, spec.keep, spec.within, left_out), spec, recipe)
        rows = rows.assign(at=index.get_indexer(rows["star"]), kind=kind)
        measured = rows["at"] >= 0
        if not measured.any():
            raise HbcalError(
                f"{path.name} lists {len(rows)} cluster member(s), and no survey measured any of them: check that "
                "the files use the same star ids."
            )
        left_out[f"{kind} member(s) that no survey measured"] += int((~measured).sum())
        tables.append(rows[measured])
    members = _join(pd.concat(tables, ignore_index=True), catalogue.n_star)
    return replace(
        catalogue, members=members, left_out={k: v for k, v in left_out.items() if v}, sources=tuple(sources)
    )


def _rows(columns: Columns, spec: ClusterSpec, recipe: Recipe) -> pd.DataFrame:
    """One row per member: star, cluster, probability."""
    name = columns.path.name
    columns = columns.select(columns.values[spec.cluster] != "")  # the others are field stars
    star, cluster = (columns.values[c].astype(str) for c in (spec.star, spec.cluster))
    if not columns.n_row:
        raise HbcalError(f"{name} names a cluster in no row: check its column {spec.cluster!r}.")
    if (star == "").any():
        raise HbcalError(f"{name} has {(star == '').sum()} cluster member(s) without a star id: fill them in.")
    both = sorted(set(cluster) & set(recipe.surveys))
    if both:
        raise HbcalError(f"{name} has cluster(s) named like a survey of the recipe, {some(both)}: rename one of them.")
    p = columns.values[spec.probability] if spec.probability else np.ones(columns.n_row)
    for bad, what in ((np.isnan(p), "missing"), (~np.isnan(p) & ~((p >= 0) & (p <= 1)), "outside 0 to 1")):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise HbcalError(
                f"Column {spec.probability!r} of {name} has {int(bad.sum())} membership probabilities {what}, first "
                f"{p[first]:g} in row {columns.row[first]}: correct them, or filter them with keep or within."
            )
    rows = pd.DataFrame({"star": star, "cluster": cluster, "probability": p, "file": name})
    _refuse_two(rows)
    if spec.visits:
        return rows.drop_duplicates("star")
    n = rows.groupby("star", sort=False).size()
    twice = n.index[n > 1]
    if len(twice):
        raise HbcalError(
            f"{name} lists {len(twice)} star(s) in more than one row, {some(twice)}: keep one of each, or set visits = "
            "true in the recipe's clusters."
        )
    return rows


def _refuse_two(rows: pd.DataFrame) -> None:
    n = rows.groupby("star", sort=False)["cluster"].nunique()
    two = n.index[n > 1]
    if len(two):
        where = rows.loc[rows["star"] == two[0], "cluster"].unique()
        raise HbcalError(
            f"{some(rows['file'].unique())} put {len(two)} star(s) in more than one cluster, {some(two)}, the first in "
            f"{some(where)}: give each star one."
        )


def _join(rows: pd.DataFrame, n_star: int) -> Members:
    """Clusters of all kinds together, in order of appearance."""
    _refuse_two(rows)
    kinds = rows.groupby("cluster", sort=False)["kind"].nunique()
    if (kinds > 1).any():
        raise HbcalError(f"The cluster(s) {some(kinds.index[kinds > 1])} are of more than one kind: list each in one.")
    number, names = pd.factorize(rows["cluster"])
    cluster, probability = np.full(n_star, -1), np.full(n_star, np.nan)
    cluster[rows["at"]], probability[rows["at"]] = number, rows["probability"]
    kind_of = rows.drop_duplicates("cluster")["kind"]
    return Members(tuple(map(str, names)), tuple(map(str, kind_of)), cluster, probability)
