"""Which stars train an emulator, on which labels: the table of labels, the labels chosen, what is left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.values import rows_of
from hbcal.emulator.autoregressive import NO_META
from hbcal.emulator.base import median_of, why_not
from hbcal.emulator.choose import LEAST
from hbcal.evaluation import check_truth, read_truth
from hbcal.spectra.container import Spectra

APART = 2.0  # arcsec: positions of one star's spectra; fibres are as wide, or wider
MOST, MOST_SHARE = 50, 0.01  # spectra at one place, and of all
FEWEST = 10  # stars that a label is known of
BRIGHT = 0.2  # scatter of ln median flux: spectra that differ so much in level are seldom normalised


def with_labels(spectra: Spectra, path: Path) -> tuple[Spectra, str]:
    """The spectra with the labels of a table, NaN for stars it does not have.

    Args:
        spectra: of the stars.
        path: see `hbcal.evaluation.read_truth`; labels are the columns that have errors in ``<label>_err``.

    Returns:
        The spectra, and a sentence on what of the table was taken.

    Errors:
        HbcalError for a table that cannot be read, and one without a star or a label with errors.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "t.csv"
        ...     _ = path.write_text("star,fe_h,fe_h_err,teff\\ns5_0,0.1,0.02,5000\\n")
        ...     with_labels(tiny_spectra(), path)[1]
        "labels of t.csv: fe_h, of 1 of 400 stars; not taken, without errors in <label>_err: 'teff'"
    """
    truth = read_truth(path)
    rows = rows_of(spectra.star.tolist(), truth.star.tolist())
    told = [name for name, err in truth.labels_err.items() if np.isfinite(err).any()]
    check_truth(truth, told, path.name)
    if not (rows >= 0).any() or not told:
        raise HbcalError(
            f"{path.name} has labels with errors [{some(told, 9)}] of {int((rows >= 0).sum())} of {len(rows)} stars: "
            "it needs the column star, with the spectra's ids, and pairs of columns <label>, <label>_err."
        )
    table = lambda by: np.stack([np.where(rows >= 0, by[n][rows], np.nan) for n in told], axis=1)  # noqa: E731
    bare = [name for name in truth.labels if name not in told]
    text = f"labels of {path.name}: {', '.join(told)}, of {int((rows >= 0).sum())} of {len(rows)} stars"
    taken = replace(
        spectra, labels=table(truth.labels), labels_err=table(truth.labels_err), label_names=tuple(told)
    )  # fmt: skip
    return taken, text + (f"; not taken, without errors in <label>_err: {some(bare, 9)}" if bare else "")


def chosen(spectra: Spectra, names: Sequence[str]) -> Spectra:
    """The spectra with some of their labels.

    Args:
        spectra: with labels.
        names: of those to keep, in their order.

    Returns:
        The spectra.

    Errors:
        HbcalError for a name that is not there, or there twice.

    Example:
        >>> chosen(tiny_spectra(), ["fe_h"]).labels.shape
        (400, 1)
    """
    for name in names:
        if name not in spectra.label_names or list(names).count(name) > 1:
            raise HbcalError(
                f"The label {name!r} is {'named twice' if name in spectra.label_names else 'not there'}"
                f"{closest(name, spectra.label_names)}: the spectra have the labels {some(spectra.label_names, 20)}."
            )
    at = [spectra.label_names.index(name) for name in names]
    return replace(
        spectra, labels=spectra.labels[:, at], labels_err=spectra.labels_err[:, at], label_names=tuple(names)
    )  # fmt: skip


def same_sky(spectra: Spectra) -> np.ndarray:
    """Which spectra are of one star: within two arcseconds of each other, where the files know where stars are.

    Args:
        spectra: whose meta may have ``ra`` and ``dec``, degrees.

    Returns:
        A number per spectrum, (n_star,), the same for spectra of one star.

    Errors:
        None.

    Example:
        >>> one = np.ones((3, 2))
        >>> sky = np.array([[10.0, 60.0], [10.0, 60.0002], [10.0, -60.0]])
        >>> spectra = Spectra(one[0], one, one, np.array(["a", "b", "c"]), one, one, ("x", "y"), sky, ("ra", "dec"))
        >>> first, second, third = same_sky(spectra)
        >>> bool(first == second), bool(first == third)
        (True, False)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    sky, n = np.stack([spectra.about("ra"), spectra.about("dec")], axis=1), len(spectra.star)
    real = (sky[:, 0] >= 0.0) & (sky[:, 0] <= 360.0) & (np.abs(sky[:, 1]) <= 90.0) & (sky != 0.0).any(axis=1)
    places, which, many = np.unique(sky, axis=0, return_inverse=True, return_counts=True)
    which = which.ravel()
    real &= many[which] <= max(MOST, MOST_SHARE * n)  # as many spectra at one place are of no star, but of no place
    rows = np.unique(which[real])
    ra, dec = np.radians(places[rows].T)
    at = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    pairs = rows[KDTree(at).query_pairs(np.radians(APART / 3600.0), output_type="ndarray")] if len(at) else rows[:0]
    ends = tuple(pairs.reshape(-1, 2).T)
    links = coo_array((np.ones(len(ends[0])), ends), shape=(len(places),) * 2)
    group = connected_components(links, directed=False)[1][which]
    group = np.where(real, group, len(places) + np.arange(n))  # each for itself
    return np.unique(group, return_inverse=True)[1].ravel()


def refuse_alike(beside: np.ndarray, meta: Sequence[str]) -> None:
    """Refuse columns that tell nothing, or nothing that the others do not: their covariance has no inverse.

    Args:
        beside: (n_star, n_meta), of `Spectra.beside`.
        meta: their names.

    Returns:
        Nothing.

    Errors:
        HbcalError with the columns.

    Example:
        >>> refuse_alike(np.ones((9, 1)), ["j"])
        Traceback (most recent call last):
        hbcal._errors.HbcalError: What is measured beside the spectra as 'j' is the same for all stars: leave it out.
    """
    sd = beside.std(axis=0)
    flat = [name for name, one, mean in zip(meta, sd, beside.mean(axis=0), strict=True) if one <= 1e-9 * abs(mean)]
    if flat:
        raise HbcalError(
            f"What is measured beside the spectra as {some(flat)} is the same for all stars: leave it out."
        )
    if _one_follows(beside):
        raise HbcalError(
            f"Of what is measured beside the spectra, {some(meta, 20)}, one column follows from the others: leave one "
            "out."
        )


def uneven(spectra: Spectra) -> str:
    """A sentence where spectra of independent pixels look as if nobody had divided them by their continuum.

    Args:
        spectra: of the training stars.

    Returns:
        Empty where their levels are alike.

    Errors:
        None.

    Example:
        >>> uneven(tiny_spectra())
        ''
    """
    level = median_of(spectra.flux)
    level = level[np.isfinite(level)]
    spread = float(np.log(level).std()) if level.size else 0.0
    if spread < BRIGHT:
        return ""
    return (
        f"spectra's levels differ by {100 * spread:.0f}% from star to star: unless brightness is to tell labels, "
        "divide them by their continuum with --normalise"
    )


def exact_labels(spectra: Spectra) -> str:
    """A sentence on labels that come without an error, and so count as exact.

    Args:
        spectra: with labels.

    Returns:
        Empty where each has one.

    Errors:
        None.

    Example:
        >>> exact_labels(tiny_spectra())
        ''
    """
    there = np.isfinite(spectra.labels)
    bare = there & ~np.isfinite(spectra.labels_err)
    if not bare.any():
        return ""
    each = zip(spectra.label_names, bare.sum(axis=0), there.sum(axis=0), strict=True)
    told = ", ".join(f"{name} of {n} of {of} stars" for name, n, of in each if n)
    return f"labels without errors count as exact: {told}; errors can come from a table with --labels"


def usable(spectra: Spectra, method: str, noise: str, meta: Sequence[str]) -> tuple[Spectra, dict[str, int]]:
    """Stars that can train, the others counted by reason.

    Args:
        spectra: with labels.
        method, noise, meta: of `hbcal.training.train_emulator`.

    Returns:
        The spectra of those that can; how many cannot, by reason.

    Errors:
        HbcalError where none can, or too few for networks, or a label is the same for all.

    Example:
        >>> usable(tiny_spectra(), "quadratic", "correlated", ())[1]
        {}
    """
    if noise == "independent":
        enough = np.isfinite(spectra.flux).sum(axis=1) > len(spectra.label_names)
        why = np.where(enough, "", "missing pixels")
    else:
        why = why_not(spectra.flux)
    why = np.where((why == "") & ~np.isfinite(spectra.labels).any(axis=1), "no label", why)
    if (beside := spectra.beside(meta)) is not None:
        why = np.where((why == "") & ~np.isfinite(beside).all(axis=1), NO_META, why)
    keep = why == ""
    left_out = {str(reason): int(n) for reason, n in zip(*np.unique(why[~keep], return_counts=True), strict=True)}
    if not keep.any():
        each = ", ".join(f"{n}: {reason}" for reason, n in left_out.items())
        raise HbcalError(
            f"None of {len(keep)} spectra can train ({each}): training needs pixels with positive errors, a positive "
            "median flux, labels, and what --meta names; with --noise correlated every pixel, so leave out with --wave "
            "what spectra lack."
        )
    if method == "network" and keep.sum() < LEAST:
        raise HbcalError(
            f"{int(keep.sum())} of {len(keep)} spectra can train networks, which need {LEAST}: give more, or use "
            "--method quadratic."
        )
    kept = spectra.take(keep)
    refuse_empty(kept.labels, kept.label_names)
    return kept, left_out


def refuse_empty(labels: np.ndarray, names: Sequence[str]) -> None:
    """Refuse labels that hardly any star has, that are the same for all, or that follow from the others.

    Args:
        labels: of the stars, (n_star, n_label), NaN where missing.
        names: of the labels.

    Returns:
        Nothing.

    Errors:
        HbcalError with the label.

    Example:
        >>> refuse_empty(np.ones((30, 1)), ["teff"])
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The label 'teff' is missing or the same for all 30 training stars: name the others \
with --label.
    """
    for l, name in enumerate(names):
        values = labels[np.isfinite(labels[:, l]), l]
        if not values.size or not values.std() > 1e-12 * np.abs(values).max():
            raise HbcalError(
                f"The label {name!r} is missing or the same for all {len(labels)} training stars: name the others with "
                "--label."
            )
        if len(values) < FEWEST:
            raise HbcalError(
                f"The label {name!r} is known of {len(values)} of {len(labels)} training stars, and {FEWEST} are "
                "needed: name the others with --label."
            )
    whole = labels[np.isfinite(labels).all(axis=1)]
    if len(whole) > 2 * len(names) and (whole.std(axis=0) > 0.0).all() and _one_follows(whole):
        raise HbcalError(
            f"Of the labels {some(names, 20)} one follows from the others: leave it out, with --label for those kept."
        )


def _one_follows(columns: np.ndarray) -> bool:
    """Whether one of the columns, none of which is constant, is a linear function of the others."""
    x = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return bool(np.linalg.matrix_rank(x, tol=1e-6 * len(x) ** 0.5) < columns.shape[1])


def known_of_some(spectra: Spectra) -> str:
    """A sentence on labels that not every star has.

    Args:
        spectra: with labels.

    Returns:
        Empty where every star has all.

    Errors:
        None.

    Example:
        >>> known_of_some(tiny_spectra())
        ''
    """
    n = np.isfinite(spectra.labels).sum(axis=0)
    part = [f"{name} of {k}" for name, k in zip(spectra.label_names, n, strict=True) if k < len(spectra.star)]
    return f"labels known of some of {len(spectra.star)} stars: {', '.join(part)}" if part else ""
