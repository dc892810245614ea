"""What a run of populations says, in words and figures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbcal.figures import INK, SOFT, blank

if TYPE_CHECKING:
    from hbcal.population_run import PopulationRun

COLOURS = ("#1f3b57", "#c25b2a", "#5b8c5a", "#8e5ea2", "#b59b2b", "#3aa6b9", "#a33b5a", "#6b6b6b")
SHOWN = 600  # stars of the co-clustering figure, and draws' contours
PLANES = 6


def report(run: PopulationRun) -> str:
    """How many populations, what they are, which elements tell them apart.

    Args:
        run: of populations.

    Returns:
        Text for people.

    Errors:
        None.

    Example:
        >>> print(tiny_population_run().text())  # doctest: +ELLIPSIS
        tiny: two populations
        120 stars, 2 elements, ...
    """
    stars, found, elements = run.stars, run.populations, [str(e) for e in run.populations["element"].values]
    attrs = run.tree.attrs
    low, middle, high = 0.05, 0.5, 0.95
    between = lambda v, axis=0: np.nanquantile(v, (low, middle, high), axis=axis)  # noqa: E731
    away = run.tree["components"]["distance"].to_numpy()
    lines = [
        f"{run.recipe.name}: {run.recipe.title}",
        f"{stars.sizes['star']} stars, {len(elements)} elements, {run.recipe.mixture.components} components kept; "
        f"weight that truncation leaves out: {float(attrs['truncation']):.2g}",
        run.diagnostics_text, "",
        "components that hold 1% of the stars: "
        + ", ".join(f"{k}: {100 * p:.1f}%" for k, p in run.n_occupied.items()),
        "concentration {:.2f} ({:.2f} to {:.2f}), share of stars of no population {:.4f} ({:.4f} to {:.4f})".format(
            *between(run.posterior["concentration"].to_numpy().ravel())[[1, 0, 2]],
            *between(run.posterior["background"].to_numpy().ravel())[[1, 0, 2]],
        ),
        f"the partition below is {away.mean():.3f} bits from a draw on average; 95% of the draws are within "
        f"{np.quantile(away, 0.95):.3f}", "",
        "populations, median and 90% interval:",
    ]  # fmt: skip
    weight, mean, covariance = (found[name].to_numpy() for name in ("weight", "mean", "covariance"))
    for j in range(weight.shape[1]):
        n = int((stars["population"] == j + 1).sum())
        known = float(np.isfinite(mean[:, j, 0]).mean())
        least, half, most = between(weight[:, j])
        rare = "" if known == 1 else f", in {100 * known:.0f}% of the draws"
        lines.append(f"{j + 1}: {n} stars, weight {half:.3f} ({least:.3f} to {most:.3f}){rare}")
        for e, name in enumerate(elements):
            at, wide = between(mean[:, j, e]), between(np.sqrt(covariance[:, j, e, e]))
            lines.append(
                f"   {name:<10} mean {at[1]:+.3f} ({at[0]:+.3f} to {at[2]:+.3f})   sd {wide[1]:.3f} "
                f"({wide[0]:.3f} to {wide[2]:.3f})"
            )
    if weight.shape[1] > 1:
        lines += ["", "what tells two populations apart: difference of means over the mean sd"]
        for i, j in combinations(range(weight.shape[1]), 2):
            apart = separations(mean, covariance, i, j)
            order = np.argsort(-np.abs(apart))[:4]
            lines.append(f"{i + 1} and {j + 1}: " + ", ".join(f"{elements[e]} {apart[e]:+.1f}" for e in order))
    return "\n".join(lines) + "\n"


def separations(mean: np.ndarray, covariance: np.ndarray, i: int, j: int) -> np.ndarray:
    """How far two populations lie apart in each element, in units of their sd.

        (mu_i - mu_j) / sqrt((Sigma_i + Sigma_j) / 2),   median over the draws

    Args:
        mean, covariance: (n_draw, n_population, n_dim), (n_draw, n_population, n_dim, n_dim).
        i, j: which two.

    Returns:
        (n_dim,).

    Errors:
        None.

    Example:
        >>> separations(np.array([[[0.0], [3.0]]]), np.ones((1, 2, 1, 1)), 1, 0).tolist()
        [3.0]
    """
    var = np.einsum("sjee->sje", covariance)
    return np.nanmedian((mean[:, i] - mean[:, j]) / np.sqrt(0.5 * (var[:, i] + var[:, j])), axis=0)


def planes(run: PopulationRun, path: Path) -> None:
    """Planes of abundances: stars in the colour of their population, and where populations are without errors.

    Args:
        run: of populations.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     planes(tiny_population_run(), Path(folder) / "p.png")
        ...     (Path(folder) / "p.png").stat().st_size > 1000
        True
    """
    elements = [str(e) for e in run.populations["element"].values]
    value, population = run.tree["observed_data"]["value"].to_numpy(), run.stars["population"].to_numpy()
    sure = run.stars["probability"].to_numpy().max(1)
    others = range(1, min(len(elements), PLANES + 1)) if len(elements) > 1 else [0]
    n_column = min(len(others), 3)
    n_row = -(-len(others) // n_column)
    figure = blank(4.0 * n_column, 3.6 * n_row)
    axes = figure.subplots(n_row, n_column, squeeze=False).ravel()
    mean, covariance = run.populations["mean"].to_numpy(), run.populations["covariance"].to_numpy()
    turn = np.linspace(0.0, 2.0 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for ax, other in zip(axes, others, strict=False):
        for j in range(int(population.max()) + 1):
            here = population == j
            colour = COLOURS[(j - 1) % len(COLOURS)] if j else "0.6"
            if not here.any():
                continue
            ax.scatter(value[here, 0], value[here, other], s=3, color=colour, alpha=0.15 + 0.6 * sure[here] ** 2, lw=0)
        for j in range(mean.shape[1]):
            for s in np.linspace(0, len(mean) - 1, 12).astype(int):  # a dozen draws: their scatter is the uncertainty
                at = [0, other]
                if np.isfinite(mean[s, j]).all() and other != 0:
                    root = np.linalg.cholesky(covariance[s, j][np.ix_(at, at)])
                    ring = mean[s, j, at][:, None] + 1.515 * root @ circle  # 68.3% of a plane
                    ax.plot(*ring, color=COLOURS[j % len(COLOURS)], lw=0.6, alpha=0.6)
        ax.set(xlabel=elements[0], ylabel=elements[other])
    for ax in axes[len(others) :]:
        ax.set_visible(False)
    figure.savefig(path, dpi=120)


def together(run: PopulationRun, path: Path) -> None:
    """Co-clustering of some stars, how sure memberships are, and how many populations there may be.

    Args:
        run: of populations.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     together(tiny_population_run(), Path(folder) / "t.png")
        ...     (Path(folder) / "t.png").stat().st_size > 1000
        True
    """
    population, sure = run.stars["population"].to_numpy(), run.stars["probability"].to_numpy().max(1)
    rows = np.random.default_rng(0).permutation(len(population))[:SHOWN]
    rows = rows[np.lexsort((-sure[rows], population[rows]))]
    figure = blank(13.0, 4.2)
    left, middle, right = figure.subplots(1, 3)
    image = left.imshow(run.coclustering(rows), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=left, label="probability to be in one component")
    left.set(title=f"{len(rows)} stars, by population", xlabel="star", ylabel="star")
    middle.hist(sure, np.linspace(0, 1, 41), color=INK)
    middle.set(xlabel="probability of the likeliest population", ylabel="stars")
    right.bar(list(run.n_occupied), list(run.n_occupied.values()), color=SOFT)
    right.set(xlabel="components with 1% of the stars", ylabel="posterior probability")
    figure.savefig(path, dpi=120)
