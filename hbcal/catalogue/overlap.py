"""Who shares stars with whom: can the data tie the surveys together at all?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from hbcal._errors import HbcalError, some
from hbcal.catalogue.catalogue import Catalogue


@dataclass(frozen=True)
class Tie:
    """An edge of the overlap graph: two surveys (or one, by repeated visits), a label, the stars they share.

    `other` may be a kind of clusters; the stars shared with it are the survey's stars in clusters.
    """

    label: str
    survey: str
    other: str
    n_star: int
    low: float
    high: float


@dataclass(frozen=True)
class Overlap:
    """The overlap graph of a catalogue.

    Attributes:
        ties: one per label and pair of surveys with stars in common.
        fitted: labels that at least two surveys tie.
        single: labels that one survey alone reports; covariates, not fitted.
        anchored: label -> its anchors among the reporting surveys.
        sums: label -> surveys whose floors the data constrain only in sums; kinds of clusters, too: the scatter within.
    """

    ties: tuple[Tie, ...]
    fitted: tuple[str, ...]
    single: tuple[str, ...]
    anchored: dict[str, tuple[str, ...]]
    sums: dict[str, tuple[str, ...]]

    def text(self, units: dict[str, str]) -> str:
        """The graph in words, one line per tie."""
        lines = []
        for label in self.fitted:
            anchors = self.anchored[label]
            scale = f"anchored on {', '.join(anchors)}" if anchors else "no anchor: relative scale"
            lines.append(f"{label} [{units[label]}]: {scale}")
            for tie in self.ties:
                if tie.label == label:
                    pair = f"{tie.survey} - {tie.other}" if tie.other != tie.survey else f"{tie.survey} (repeats)"
                    lines.append(f"  {pair}: {tie.n_star} stars, {label} {tie.low:.5g} to {tie.high:.5g}")
            if self.sums.get(label):
                lines.append(
                    f"  note: only sums of the floors of {', '.join(self.sums[label])} are constrained by the data"
                )
        lines += [f"{label}: reported by one voting survey only, not fitted" for label in self.single]
        return "\n".join(lines)


def overlap(
    catalogue: Catalogue, anchors: dict[str, tuple[str, ...]], noise_known: set[tuple[str, str]],
    kinds: tuple[str, ...] = (),
) -> Overlap:  # fmt: skip
    """Build the overlap graph and refuse what it cannot answer.

    Args:
        catalogue: measurements that will enter the fit; values in label units.
        anchors: label -> surveys declared as anchors.
        noise_known: (survey, label) whose noise is fixed (anchors with a = 1 and tau = 0).
        kinds: which of the catalogue's last surveys are kinds of clusters, see `hbcal.clusters.join`.

    Returns:
        The `Overlap`; a survey without data is in no tie.

    Errors:
        HbcalError when fewer than two surveys have data and there are no clusters, no star is shared, two groups of
        surveys share no star, no cluster and no anchor, or every survey is an anchor.

    Example:
        >>> graph = overlap(tiny_sky().catalogue, {"fe_h": ("s0",)}, {("s0", "fe_h")})
        >>> [(tie.survey, tie.other) for tie in graph.ties], graph.anchored
        ([('s0', 's1'), ('s0', 's2'), ('s1', 's2')], {'fe_h': ('s0',)})
    """
    names = np.array(catalogue.surveys)
    if len(np.unique(catalogue.survey)) < 2:
        have = some(names[np.unique(catalogue.survey)])
        raise HbcalError(f"Only one survey has data ({have or 'none'}): a calibration needs two that share stars.")
    n_real = len(names) - len(kinds)
    ties: list[Tie] = []
    fitted, single, sums, anchored = [], [], {}, {}
    for k, label in enumerate(catalogue.labels):
        here = catalogue.label == k
        reporting = np.unique(catalogue.survey[here])
        if len(reporting) < 2:
            single += [label] if len(reporting) else []
            continue
        edges = _edges(catalogue, here, n_real)
        ties += [Tie(label, str(names[a]), str(names[b]), *rest) for (a, b), rest in edges.items()]
        anchored[label] = tuple(s for s in anchors.get(label, ()) if s in names[reporting])
        real = reporting[reporting < n_real]
        _refuse_disconnected(label, real, _links(catalogue, here, edges, n_real), names, anchored[label])
        if len(anchored[label]) == len(real):
            raise HbcalError(
                f"Every survey that reports {label!r} is an anchor ({some(anchored[label], 6)}): there is nothing to "
                "calibrate; declare one of them no anchor, or drop the label."
            )
        fitted.append(label)
        loose = _sums_only(reporting, edges, names, {s for s in names if (s, label) in noise_known})
        if loose:
            sums[label] = loose
    if not fitted:
        raise HbcalError(
            f"No label is reported by two surveys ({some(single, 6)} by one each): there is nothing to calibrate."
        )
    return Overlap(tuple(ties), tuple(fitted), tuple(single), anchored, sums)


def _edges(catalogue: Catalogue, here: np.ndarray, n_real: int) -> dict[tuple[int, int], tuple[int, float, float]]:
    """(survey, survey) -> stars in common, lowest and highest value that surveys report among them."""
    star, survey, value = catalogue.star[here], catalogue.survey[here], catalogue.value[here]
    n_survey = len(catalogue.surveys)
    count = coo_matrix((np.ones(len(star)), (star, survey)), shape=(catalogue.n_star, n_survey)).tocsc()
    real = survey < n_real
    total = np.bincount(star[real], weights=value[real], minlength=catalogue.n_star)
    mean = total / np.maximum(np.bincount(star[real], minlength=catalogue.n_star), 1)
    seen = [np.asarray(count[:, s].todense()).ravel() for s in range(n_survey)]
    edges = {}
    for a in range(n_survey):
        for b in range(a, n_survey):
            both = seen[a] > 1 if a == b else (seen[a] > 0) & (seen[b] > 0)
            if both.any():
                edges[a, b] = (int(both.sum()), float(mean[both].min()), float(mean[both].max()))
    return edges


def _links(
    catalogue: Catalogue, here: np.ndarray, edges: dict[tuple[int, int], tuple[int, float, float]], n_real: int
) -> list[tuple[int, int]]:
    """What ties surveys: stars in common, and members of one cluster, whose node stands behind those of the surveys."""
    links = [(a, b) for a, b in edges if a != b and b < n_real]
    if catalogue.members is not None:
        pseudo = here & (catalogue.survey >= n_real)
        cluster = np.full(catalogue.n_star, -1)
        cluster[catalogue.star[pseudo]] = catalogue.members.cluster[catalogue.star[pseudo]]
        rows = np.flatnonzero(here & (catalogue.survey < n_real) & (cluster[catalogue.star] >= 0))
        nodes = zip(catalogue.survey[rows], len(catalogue.surveys) + cluster[catalogue.star[rows]], strict=True)
        links += sorted({(int(s), int(g)) for s, g in nodes})
    return links


def _refuse_disconnected(
    label: str, reporting: np.ndarray, links: list[tuple[int, int]], names: np.ndarray, anchors: tuple[str, ...]
) -> None:
    held = [int(np.flatnonzero(names == s)[0]) for s in anchors]
    pairs = links + [(held[0], other) for other in held[1:]]  # anchors are on one scale by declaration
    n = max([len(names) - 1, *(b for _, b in pairs)]) + 1
    if not links:
        raise HbcalError(
            f"No star has {label} from two surveys ({some(names[reporting], 6)}): the overlap is empty; check that the "
            "files use the same star ids."
        )
    row, col = np.array(pairs).T
    _, part = connected_components(coo_matrix((np.ones(len(row)), (row, col)), shape=(n, n)), directed=False)
    groups = [sorted(names[[s for s in reporting if part[s] == g]]) for g in np.unique(part[reporting])]
    if len(groups) > 1:
        told = " and ".join("{" + ", ".join(map(str, g)) + "}" for g in groups)
        raise HbcalError(
            f"For {label} the surveys fall into {len(groups)} groups that share no star, no cluster and no anchor, "
            f"{told}: the data cannot tie them; add stars in common, declare an anchor in each, drop a group, or list "
            "the label in own_scale of a survey that is alone."
        )


def _sums_only(
    reporting: np.ndarray, edges: dict[tuple[int, int], tuple[int, float, float]], names: np.ndarray, known: set[str]
) -> tuple[str, ...]:
    """Surveys whose noise is constrained only in sums: a graph without odd cycle, repeats or a survey of known noise.

    Every edge gives the sum of two variances; the sums determine each variance where walking round a cycle returns with
    the other sign, that is where the graph is not bipartite.
    """
    n = len(names)
    row, col = np.array(list(edges)).T
    graph = coo_matrix((np.ones(len(row)), (row, col)), shape=(n, n)).tocsr()
    _, part = connected_components(graph, directed=False)  # more than one where anchors tie what shares no star
    loose: list[str] = []
    for group in np.unique(part[reporting]):
        here = [s for s in reporting if part[s] == group]
        order, before = breadth_first_order(graph, here[0], directed=False)
        side = np.zeros(n, int)
        for node in order[1:]:
            side[node] = 1 - side[before[node]]
        odd = any(side[a] == side[b] for a, b in edges if part[a] == group)  # a survey's repeats are a cycle of one
        if not odd and not any(str(names[s]) in known for s in here):
            loose += [str(names[s]) for s in here]
    return tuple(loose)
