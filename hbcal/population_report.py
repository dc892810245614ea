"""What a run of populations says, in words and figures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbcal.figures import INK, SOFT, blank
from hbcal.population_design import OCCUPIED

if TYPE_CHECKING:
    import xarray as xr

    from hbcal.population_run import PopulationRun

COLOURS = ("#1f3b57", "#c25b2a", "#5b8c5a", "#8e5ea2", "#b59b2b", "#3aa6b9", "#a33b5a", "#6b6b6b")
SHOWN = 600  # stars of the co-clustering figure, and draws' contours
PLANES = 6
SPLIT = 0.5  # share of the draws with two peaks from which on they are told
ODD = 0.005  # share of simulations beyond which stars do not look like them


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
    away = run.tree["components"]["distance"].to_numpy()
    density, trusted = stars["log_density"].to_numpy(), run.tree["checks"].attrs["trusted"]
    flagged = int(attrs.get("flagged", 0))
    lines = [
        f"{run.recipe.name}: {run.recipe.title}",
        f"{stars.sizes['star']} stars{f', {flagged} of them flagged' if flagged else ''}, {len(elements)} elements, "
        f"{run.recipe.mixture.components} components kept; weight that truncation leaves out: "
        f"{float(attrs['truncation']):.2g}",
        run.diagnostics_text, "",
        "components that hold 1% of the stars: "
        + ", ".join(f"{k}: {100 * p:.1f}%" for k, p in run.n_occupied.items()),
        "concentration {:.2f} ({:.2f} to {:.2f}), share of stars of no population {:.4f} ({:.4f} to {:.4f})".format(
            *between_draws(run.posterior["concentration"].to_numpy().ravel())[[1, 0, 2]],
            *between_draws(run.posterior["background"].to_numpy().ravel())[[1, 0, 2]],
        ),
        f"the partition below is {away.mean():.3f} bits from a draw on average; 95% of the draws are within "
        f"{np.quantile(away, 0.95):.3f}: a credible ball from {_clusters(stars, 'coarsest')} clusters to "
        f"{_clusters(stars, 'finest')}",
        f"left out one by one, ln p of a star is {density.mean():.3f} +- {density.std() / len(density)**0.5:.3f}; "
        f"not to be trusted (k-hat > {trusted}): {int((stars['k_hat'] > trusted).sum())} stars",
        *_checks(run), "",
        "populations, median and 90% interval:",
    ]  # fmt: skip
    weight, mean, covariance = (found[name].to_numpy() for name in ("weight", "mean", "covariance"))
    for j in range(weight.shape[1]):
        n = int((stars["population"] == j + 1).sum())
        known = float(np.isfinite(mean[:, j, 0]).mean())
        least, half, most = between_draws(weight[:, j])
        rare = "" if known == 1 else f", in {100 * known:.0f}% of the draws"
        lines.append(f"{j + 1}: {n} stars, weight {half:.3f} ({least:.3f} to {most:.3f}){rare}")
        for e, name in enumerate(elements):
            at, wide = between_draws(mean[:, j, e]), between_draws(np.sqrt(covariance[:, j, e, e]))
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
    return "\n".join([*lines, *_parted(run)]) + "\n"


def _parted(run: PopulationRun) -> list[str]:
    """Elements with two peaks at fixed values of one."""
    if "split" not in run.tree:
        return []
    split = run.tree["split"].to_dataset()
    lines = ["", f"two peaks at a fixed {split.attrs['fixed']} (share of draws; where; stars above the dip, 90%):"]
    for name in split["parted"].values:
        one = split.sel(parted=name)
        often = np.flatnonzero(one["two"] > SPLIT)
        if len(often):
            at, upper = one["at"].to_numpy()[often], one["upper"].to_numpy()[:, often]
            share = between_draws(np.nanmean(upper[np.isfinite(upper).any(axis=1)], axis=1))
            two = 100 * float(one["two"][often].mean())
            where = f"{at.min():+.2f} to {at.max():+.2f}"
            lines.append(f"   {name}: {two:.0f}%; {where}; {share[1]:.2f} ({share[0]:.2f} to {share[2]:.2f})")
    return lines if len(lines) > 2 else []


def between_draws(values: np.ndarray) -> np.ndarray:
    """The 5%, 50% and 95% quantiles of draws, NaN left out.

    Args:
        values: (n_draw,), or (n_draw, ...).

    Returns:
        (3, ...).

    Errors:
        None.

    Example:
        >>> between_draws(np.array([1.0, 2.0, 3.0, np.nan])).round(1).tolist()
        [1.1, 2.0, 2.9]
    """
    return np.nanquantile(values, (0.05, 0.5, 0.95), axis=0)


def parting(run: PopulationRun, path: Path) -> None:
    """How large a share of the stars is above the dip at each value of the fixed element, with 90% bands.

    Args:
        run: of populations, whose recipe's `split_at` is one of its elements.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parting(tiny_population_run(), Path(folder) / "s.png")
        ...     (Path(folder) / "s.png").stat().st_size > 1000
        True
    """
    split = run.tree["split"].to_dataset()
    order = np.argsort(-split["two"].mean("at").to_numpy())[:3]
    figure = blank(4.3 * len(order), 3.6)
    for ax, j in zip(figure.subplots(1, len(order), squeeze=False)[0], order, strict=True):
        one = split.isel(parted=int(j))
        known = one["two"].to_numpy() > SPLIT
        at = one["at"].to_numpy()
        if known.any():
            low, middle, high = between_draws(one["upper"].to_numpy()[:, known])
            ax.fill_between(at[known], low, high, color=SOFT, alpha=0.3, lw=0, label="90% of the draws")
            ax.plot(at[known], middle, color=INK)
        ax.plot(at, one["two"], color="0.6", lw=0.8, ls=":", label="share of draws with two peaks")
        ax.set(title=str(one["parted"].values), xlabel=split.attrs["fixed"], ylim=(0, 1.02))
        ax.set_ylabel("share above the dip")
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _clusters(stars: xr.Dataset, bound: str) -> int:
    """Clusters of 1% of the stars."""
    return int((np.bincount(stars[f"ball_{bound}"].to_numpy()) >= OCCUPIED * stars.sizes["star"]).sum())


def _checks(run: PopulationRun) -> list[str]:
    """Where simulations of the prior or the posterior do not look like the stars."""
    checks = run.tree["checks"].to_dataset()
    lines = [f"stars against {checks.attrs['n_simulated']} simulations of them, share below, per element:"]
    for by in ("prior", "posterior"):
        for statistic in checks["statistic"].values:
            told = checks[by].sel(statistic=statistic)
            shares = [f"{name} {float(value):.3f}" for name, value in zip(told["element"].values, told, strict=True)]
            n_odd = int((np.abs(told - 0.5) > 0.5 - ODD).sum())
            lines.append(f"   {by}, {statistic}: {', '.join(shares)}" + (f" -- {n_odd} does not fit" * bool(n_odd)))
    return lines


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
