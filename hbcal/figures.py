"""The figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbcal.design import with_clusters
from hbcal.draws import label_draws
from hbcal.predict import FEW_DRAWS, told_by, true_label
from hbcal.solve import beside, solve_stars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hbcal.run import Run

INK, SOFT = "#1f3b57", "#c25b2a"


def blank(width: float, height: float) -> Figure:
    """An empty figure that needs no display.

    Args:
        width, height: inch.

    Returns:
        A Matplotlib figure.

    Errors:
        None.

    Example:
        >>> blank(4.0, 3.0).get_size_inches().tolist()
        [4.0, 3.0]
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def forest(run: Run, path: Path) -> None:
    """Zero points and floors with 68% and 95% intervals, per survey and label.

    Args:
        run: a run.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     forest(tiny_run(), Path(folder) / "offsets.png")
        ...     (Path(folder) / "offsets.png").stat().st_size > 0
        True
    """
    posterior = run.posterior
    labels = [str(l) for l in posterior["label"].values if np.isfinite(posterior["offset"].sel(label=l)).any()]
    surveys = [str(s) for s in posterior["survey"].values]
    figure = blank(8.0, 1.2 + 0.45 * len(surveys) * len(labels))
    axes = np.atleast_2d(figure.subplots(len(labels), 2, squeeze=False))
    for row, label in zip(axes, labels, strict=True):
        for ax, name in zip(row, ("offset", "floor"), strict=True):
            for k, survey in enumerate(surveys):
                draws = posterior[name].sel(survey=survey, label=label).to_numpy().ravel()
                if np.isfinite(draws).all():
                    q = np.quantile(draws, (0.025, 0.16, 0.5, 0.84, 0.975))
                    ax.plot(q[[0, 4]], [k, k], color=INK, lw=1)
                    ax.plot(q[[1, 3]], [k, k], color=INK, lw=4)
                    ax.plot(q[2], k, "o", color=SOFT, ms=4)
            ax.set_yticks(range(len(surveys)), surveys)
            ax.set_ylim(-0.6, len(surveys) - 0.4)
            ax.axvline(0.0, color="0.8", zorder=0)
            ax.set_xlabel(f"{'zero point' if name == 'offset' else 'floor'} of {label} [{run.recipe.unit(label)}]")
    figure.savefig(path, dpi=120)


def before_after(run: Run, path: Path) -> None:
    """Each survey minus the other measurements of its stars, before and after the calibration; none where none has any.

    Args:
        run: a run.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before_after(tiny_run(), Path(folder) / "panels.png")
        ...     (Path(folder) / "panels.png").stat().st_size > 0
        True
    """
    cat, rng = run.catalogue, np.random.default_rng(0)
    panels = []
    for label in (l for l in cat.labels if np.isfinite(run.posterior["offset"].sel(label=l)).any()):
        drawn = label_draws(run.recipe, run.posterior, label)
        for survey, d in drawn.items():
            told = told_by(run.recipe, drawn, survey, label)
            others = {k: v.thinned(FEW_DRAWS) for k, v in told.items() if k != survey}
            if d.coefficient is not None and others:
                panels.append((label, survey, d, others))
    if not panels:
        return
    n_column = min(3, len(panels))
    n_line = -(-len(panels) // n_column)
    figure = blank(4.2 * n_column, 3.2 * n_line)
    axes = np.atleast_1d(figure.subplots(n_line, n_column, squeeze=False)).ravel()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, (label, survey, d, others) in zip(axes, panels, strict=False):
        s, l = cat.surveys.index(survey), cat.labels.index(label)
        rows = np.flatnonzero((cat.survey == s) & (cat.label == l))
        rows = rng.permutation(rows)[:3000]
        z, shift = _truth_and_shift(run, others, d, cat.star[rows], cat.x[cat.star[rows], s])
        keep = np.isfinite(z) & np.isfinite(shift)
        rows, z, shift = rows[keep], z[keep], shift[keep]
        y = cat.value[rows]
        ax.plot(z, y - z, ".", ms=2, color="0.7", label="before", rasterized=True)
        ax.plot(z, y - shift - z, ".", ms=2, color=INK, label="after", rasterized=True)
        ax.axhline(0.0, color=SOFT, lw=1)
        if not keep.any():
            continue
        wide = np.nanquantile(np.abs(np.concatenate([y - z, y - shift - z])), 0.995)
        ax.set_ylim(-1.2 * wide, 1.2 * wide)
        ax.set_xlabel(f"{label} from the other sources [{run.recipe.unit(label)}]")
        ax.set_ylabel(f"{survey} minus others")
        ax.legend(loc="upper right", fontsize=8, markerscale=4)
    figure.savefig(path, dpi=120)


def _truth_and_shift(run, others, d, star, x) -> tuple[np.ndarray, np.ndarray]:
    """The true label from the other sources, and what the survey adds to it; NaN where they say nothing."""
    cat = run.catalogue
    if run.recipe.program != "crosscal_structural":
        truth = true_label(cat, others, d.label, star)
        return np.where(truth.count > 0, truth.z.centre(), np.nan), d.shift(x).mean(1)
    more = [each.thinned(FEW_DRAWS) for each in beside(run.recipe, run.posterior, d.label)]
    solved = solve_stars(cat, [*others.values(), *more], star)
    z = solved.mean[:, :, cat.labels.index(d.label)]
    return z.mean(1), (solved.reported(d.thinned(FEW_DRAWS), x)[0] - z).mean(1)


def within_clusters(run: Run, path: Path) -> None:
    """Each survey's members minus the mean of their cluster, against a covariate, before and after the calibration.

    Before, the mean is that of what the survey reports.

    Args:
        run: a run with clusters.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     within_clusters(tiny_cluster_run(), Path(folder) / "clusters.png")
        ...     (Path(folder) / "clusters.png").stat().st_size > 0
        True
    """
    cat = run.catalogue
    joined, _ = with_clusters(run.recipe, cat)
    assert cat.members is not None
    panels = []
    for l, label in enumerate(cat.labels):
        told = np.unique(joined.star[len(cat.star) :][joined.label[len(cat.star) :] == l])
        for survey, d in label_draws(run.recipe, run.posterior, label).items():
            rows = np.flatnonzero((cat.label == l) & (cat.survey == cat.surveys.index(survey)))
            rows = rows[np.isin(cat.star[rows], told)]
            if d.coefficient is not None and len(rows):
                panels.append((label, survey, d, rows))
    figure = blank(4.2 * len(panels), 3.2)
    for ax, (label, survey, d, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        star = cat.star[rows]
        x = cat.x[star, cat.surveys.index(survey)]
        used = [c for names in d.terms(x).covariates for c in names if not run.recipe.covariates[c].levels]
        name = used[0] if used else label
        along = x[:, cat.covariates.index(used[0])] if used else cat.value[rows]
        cluster = cat.members.cluster[star]
        size = np.maximum(np.bincount(cluster), 1)
        mean = np.bincount(cluster, weights=cat.value[rows]) / size
        after = run.posterior["cluster_mean"].sel(label=label).mean(("chain", "draw")).to_numpy()
        ax.plot(along, cat.value[rows] - mean[cluster], ".", ms=4, color="0.7", label="before")
        ax.plot(along, cat.value[rows] - d.shift(x).mean(1) - after[cluster], ".", ms=4, color=INK, label="after")
        ax.axhline(0.0, color=SOFT, lw=1)
        ax.set_xlabel(f"{name} [{run.recipe.covariates[name].unit if used else run.recipe.unit(label)}]")
        ax.set_ylabel(f"{label} of {survey} minus its cluster")
        ax.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=120)
