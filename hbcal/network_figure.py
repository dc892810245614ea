"""The figure of the identifiability report: who is tied to whom, and what the data add to the prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hbcal.figures import INK, SOFT, blank
from hbcal.folder import write_text
from hbcal.identify import WEAK, Identifiability

WIDEST = 8.0  # points


def write_report(report: Identifiability, folder: Path) -> None:
    """Write the report as text beside its figure.

    Args:
        report: of a run.
        folder: is made; holds ``report.txt`` and ``network.png`` afterwards.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(tiny_run().identifiability(), Path(folder) / "report")
        ...     sorted(path.name for path in (Path(folder) / "report").iterdir())
        ['network.png', 'report.txt']
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.txt", report.text() + "\n")
    draw_network(report, folder / "network.png")


def draw_network(report: Identifiability, path: Path) -> None:
    """Draw the overlap network, edges as wide as their ties are strong, beside the contraction of every term.

    Args:
        report: of a run.
        path: PNG to write.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_network(tiny_run().identifiability(), Path(folder) / "network.png")
        ...     (Path(folder) / "network.png").stat().st_size > 0
        True
    """
    labels = list(report.scale)
    known = [_known(report, label) for label in labels]
    heights = [max(3.6, 1.0 + 0.16 * len(names)) for names, _ in known]
    figure = blank(11.0, sum(heights))
    axes = figure.subplots(len(labels), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (left, right), label, (names, value) in zip(axes, labels, known, strict=True):
        _graph(left, report, label)
        right.barh(range(len(names)), value, color=[SOFT if v < WEAK else INK for v in value])
        right.set_yticks(range(len(names)), names, fontsize=7)
        right.invert_yaxis()
        right.set_xlim(min(0.0, *value), 1.0)
        right.set_xlabel(f"{label}: 1 - posterior variance / prior variance")
    figure.savefig(path, dpi=120)


def _known(report: Identifiability, label: str) -> tuple[list[str], list[float]]:
    """Names and contraction of the terms of a label that are free."""
    table = report.contraction["contraction"].sel(label=label)
    pairs = [(str(s), str(t)) for s in table["survey"].values for t in table["term"].values]
    found = [(f"{s} {t}", float(table.sel(survey=s, term=t))) for s, t in pairs]
    found = [(name, value) for name, value in found if np.isfinite(value)]
    return [name for name, _ in found], [value for _, value in found]


def _graph(ax, report: Identifiability, label: str) -> None:
    net = report.network.sel(label=label)
    surveys = [str(s) for s in net["survey"].values]
    surveys = [s for s in surveys if (net["n_star"].sel(survey=s) > 0).any()]
    turn = 2.0 * np.pi * np.arange(len(surveys)) / max(len(surveys), 1) + np.pi / 2
    at = {s: (np.cos(a), np.sin(a)) for s, a in zip(surveys, turn, strict=True)}
    best = float(net["tie_sd"].min())
    for i, a in enumerate(surveys):
        for b in surveys[:i]:
            n, sd = (float(net[name].sel(survey=a, other=b)) for name in ("n_star", "tie_sd"))
            if n > 0:
                (xa, ya), (xb, yb) = at[a], at[b]
                ax.plot([xa, xb], [ya, yb], color=INK, alpha=0.6, lw=max(0.5, WIDEST * best / sd), zorder=1)
                middle = (0.6 * xa + 0.4 * xb, 0.6 * ya + 0.4 * yb)  # where edges cross, half way, texts would too
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
                ax.annotate(f"{n:.0f} stars\n±{sd:.2g}", middle, ha="center", va="center", fontsize=6.5, bbox=box)
    for s, (x, y) in at.items():
        ax.plot(x, y, "o", ms=12, color=SOFT, zorder=3)
        ax.annotate(s, (1.22 * x, 1.18 * y), ha="center", va="center", fontsize=9, zorder=4)
    ax.set(xlim=(-1.7, 1.7), ylim=(-1.5, 1.5), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"{label} [{report.units[label]}]: {report.scale[label]}", fontsize=9)
