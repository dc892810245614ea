"""Star clusters as constraints: each kind is a pseudo-survey that finds every member's label at its cluster's mean.

Members share a label up to a scatter, z_il = c_gl + N(0, w_l^2). Read as a measurement that is

    0 = z_il - c_gl + N(0, w_l^2),

value 0, no error, zero point -c_gl, floor w_l: `crosscal` and `crosscal_robust` need to know nothing of clusters. The
means have a wide prior and no part in the surveys' gauge. A star that is listed in a cluster by mistake is an outlier
of the pseudo-survey, with odds of its own, (1 - p) / p.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.recipe import Recipe
from hbcal.terms import Terms

MEAN = "cluster mean"
MEAN_SD = 5.0  # dex: prior sd of a cluster's mean; no abundance is that far from the Sun's
SURE = 0.999  # lists round to 1, and no list is better than this


def usable_members(recipe: Recipe, catalogue: Catalogue) -> Catalogue:
    """Leave out members that cannot help: too improbable for a program without outliers, or alone in their cluster.

    Args:
        recipe: with its clusters.
        catalogue: with its members, without the rows that cannot be used.

    Returns:
        `Catalogue` whose members are left; those left out are counted by reason.

    Errors:
        HbcalError when the catalogue has no members, or no cluster has two that a survey measured.

    Example:
        >>> usable_members(tiny_run().recipe, tiny_sky().catalogue) is tiny_sky().catalogue  # no clusters
        True
    """
    if not recipe.clusters:
        return catalogue
    members = catalogue.members
    if members is None:
        raise HbcalError(f"The recipe {recipe.name!r} lists clusters, but the catalogue has no members: read them too.")
    left_out = dict(catalogue.left_out)
    for kind, spec in recipe.clusters.items():
        least = 0.0 if recipe.program == "crosscal_robust" else spec.least
        with np.errstate(invalid="ignore"):
            low = members.of_kind(kind) & ((members.probability < least) | (members.probability == 0.0))
        _count(left_out, f"{kind} member(s) less probable than {least:g}", low)
        members = members.without(low)
        labels = [catalogue.labels.index(label) for label in spec.spread]
        measured = np.isin(np.arange(catalogue.n_star), catalogue.star[np.isin(catalogue.label, labels)])
        unseen = members.of_kind(kind) & ~measured
        _count(left_out, f"{kind} member(s) without {' or '.join(spec.spread)}", unseen)
        members = members.without(unseen)
        size = np.bincount(members.cluster[members.cluster >= 0], minlength=len(members.names))
        alone = members.of_kind(kind) & (np.append(size, 0)[members.cluster] < 2)
        _count(left_out, f"{kind} member(s) alone in their cluster", alone)
        members = members.without(alone)
        if not members.of_kind(kind).any():
            raise HbcalError(
                f"No cluster of {spec.file} has two members with {' or '.join(spec.spread)} ({int(alone.sum())} "
                f"have one): one star cannot be compared with itself; add members, or take {kind!r} out of the recipe."
            )
    return replace(catalogue, members=members.occupied(), left_out=left_out)


def _count(left_out: dict[str, int], reason: str, which: np.ndarray) -> None:
    if which.any():
        left_out[reason] = left_out.get(reason, 0) + int(which.sum())


def join(recipe: Recipe, catalogue: Catalogue, votes: np.ndarray) -> Catalogue:
    """Append one pseudo-survey per kind of clusters, and its measurements.

    Args:
        recipe: with its clusters.
        catalogue: with the members that can help.
        votes: which measurements have a say, (n_measurement,).

    Returns:
        `Catalogue` with more surveys and measurements behind the others, which keep their places; the same where there
        are no clusters. Where only one member of a cluster has a label, the cluster says nothing about it.

    Errors:
        None.

    Example:
        >>> cat = tiny_sky().catalogue
        >>> join(tiny_run().recipe, cat, np.ones(len(cat.value), bool)) is cat  # no clusters
        True
    """
    members = catalogue.members
    if not recipe.clusters or members is None:
        return catalogue
    star, survey, label = [catalogue.star], [catalogue.survey], [catalogue.label]
    for k, (kind, spec) in enumerate(recipe.clusters.items()):
        for name in spec.spread:
            l = catalogue.labels.index(name)
            told = np.unique(catalogue.star[(catalogue.label == l) & votes])
            told = told[members.of_kind(kind)[told]]
            size = np.bincount(members.cluster[told], minlength=len(members.names))
            told = told[size[members.cluster[told]] > 1]
            star.append(told)
            survey.append(np.full(len(told), len(catalogue.surveys) + k))
            label.append(np.full(len(told), l))
    n_new = sum(map(len, star)) - len(catalogue.star)
    x = np.full((catalogue.n_star, len(recipe.clusters), len(catalogue.covariates)), np.nan)
    return replace(
        catalogue, surveys=(*catalogue.surveys, *recipe.clusters), star=np.concatenate(star),
        survey=np.concatenate(survey), label=np.concatenate(label),
        value=np.append(catalogue.value, np.zeros(n_new)), error=np.append(catalogue.error, np.full(n_new, np.nan)),
        x=np.concatenate([catalogue.x, x], axis=1), visit=None, correlation=None,
    )  # fmt: skip


def mean_terms(joined: Catalogue, kind: str, label: str, stars: np.ndarray) -> Terms:
    """The columns of a pseudo-survey: -1 in the column of the star's cluster.

    Args:
        joined: as `join` gives it.
        kind: of clusters, the pseudo-survey's name.
        label: which.
        stars: star numbers, (n_row,).

    Returns:
        `Terms` with one column per cluster that says something about the label.

    Errors:
        ValueError for a kind or label the catalogue does not have.

    Example:
        >>> joined = tiny_clusters().joined
        >>> terms = mean_terms(joined, "open", "fe_h", joined.star[joined.survey == 1])
        >>> terms.names, np.unique(terms.values.sum(1)).tolist()
        (['cluster=open0', 'cluster=open1', 'cluster=open2'], [-1.0])
    """
    assert joined.members is not None
    cluster = joined.members.cluster
    rows = (joined.survey == joined.surveys.index(kind)) & (joined.label == joined.labels.index(label))
    which = np.unique(cluster[joined.star[rows]])
    n = len(which)
    return Terms(
        -(cluster[stars][:, None] == which[None, :]).astype(float), [mean_name(joined, g) for g in which], np.ones(n),
        [MEAN] * n, [None] * n, [()] * n,
    )  # fmt: skip


def mean_name(joined: Catalogue, cluster: int) -> str:
    """Name of the term that is a cluster's mean.

    Args:
        joined: with its members.
        cluster: number of the cluster.

    Returns:
        ``"cluster=NAME"``.

    Errors:
        IndexError for a cluster there is not.

    Example:
        >>> mean_name(tiny_clusters().joined, 2)
        'cluster=open2'
    """
    assert joined.members is not None
    return f"cluster={joined.members.names[cluster]}"


def wrong_odds(joined: Catalogue, rows: np.ndarray, never: float) -> np.ndarray:
    """Log odds that a pseudo-measurement is an outlier, log (1 - p) / p: that its star is no member.

    Args:
        joined: as `join` gives it.
        rows: of its measurements, any shape.
        never: log odds of the measurements of real surveys.

    Returns:
        Log odds, shape of `rows`.

    Errors:
        None.

    Example:
        >>> joined = tiny_clusters().joined
        >>> wrong_odds(joined, np.array([0, len(joined.value) - 1]), -1e4).round(1).tolist()
        [-10000.0, -6.9]
    """
    if joined.members is None:
        return np.full(rows.shape, never)
    p = np.clip(joined.members.probability[joined.star[rows]], 1.0 - SURE, SURE)
    pseudo = np.isin(joined.survey[rows], [s for s, name in enumerate(joined.surveys) if name in joined.members.kinds])
    return np.where(pseudo, np.log1p(-p) - np.log(p), never)


def cluster_quantities(
    recipe: Recipe, catalogue: Catalogue, means: Mapping[str, np.ndarray], floors: tuple[tuple[str, str], ...],
    sites: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Means of the clusters and the scatter within them, out of a program's draws.

    Args:
        recipe, catalogue: of the fit; the catalogue with its members.
        means: label -> (cluster) -> coefficients, (n_cluster, n_coef), 0 for a cluster that does not have the label.
        floors: (survey or kind, label) of each floor.
        sites: draws per site, each (n_chain, n_draw, ...).

    Returns:
        ``cluster_mean`` (n_chain, n_draw, n_cluster, n_label), ``cluster_spread`` (n_chain, n_draw, n_kind, n_label),
        label units, NaN where there is none; nothing where the recipe names no clusters.

    Errors:
        KeyError when a site is missing.

    Example:
        >>> prepared = tiny_clusters()
        >>> sites = {"coef_fe_h": np.zeros((1, 1, 5)), "floor": np.ones((1, 1, 2))}
        >>> found = cluster_quantities(prepared.recipe, prepared.catalogue, prepared.means, prepared.floors, sites)
        >>> found["cluster_mean"].shape, found["cluster_spread"].tolist()
        ((1, 1, 3, 1), [[[[1.0]]]])
    """
    if catalogue.members is None:
        return {}
    kinds, labels = list(recipe.clusters), list(catalogue.labels)
    lead = sites["floor"].shape[:2]
    mean = np.full((*lead, len(catalogue.members.names), len(labels)), np.nan)
    spread = np.full((*lead, len(kinds), len(labels)), np.nan)
    for label, expand in means.items():
        has = np.abs(expand).sum(1) > 0
        mean[..., has, labels.index(label)] = sites[f"coef_{label}"] @ expand[has].T
    for j, (kind, label) in enumerate(floors):
        if kind in kinds:
            spread[..., kinds.index(kind), labels.index(label)] = sites["floor"][..., j]
    return {"cluster_mean": mean, "cluster_spread": spread}
