"""The demo: simulate the packaged three-survey sky, calibrate it, print truth beside posterior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hbcal.calibration import calibrate
from hbcal.catalogue.write import write_table
from hbcal.folder import check_out, write_text
from hbcal.run import write_applied
from hbcal.simulation import simulate


def run_demo(out: Path, *, seed: int = 1, progress: Callable[[str], None] | None = None) -> tuple[str, bool]:
    """Simulate, fit, compare.

    Args:
        out: folder; gets ``data``, ``run``, ``recovery.csv``, ``recovery.txt`` and ``lowres.csv``.
        seed: of simulation and sampler.
        progress: called with lines of text.

    Returns:
        The recovery table as text, and whether the posterior passed its diagnostics.

    Errors:
        HbcalError when the folder is in use.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "mine").touch()
        ...     run_demo(Path(folder))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The output folder ... is in use: choose another --out.
    """
    check_out(out)
    simulated = simulate("demo", out / "data", seed=seed)
    run = calibrate("demo", out / "data", out / "run", seed=seed, progress=progress)
    rows, lines = [], [f"{'quantity':<12} {'survey':<11} {'label':<6} {'truth':>9} {'mean':>9} {'sd':>8} {'z':>6}"]
    for quantity in ("offset", "error_scale", "floor"):
        truth, drawn = simulated.truth[quantity], run.posterior[quantity]
        for survey in run.recipe.surveys:
            for label in run.recipe.labels:
                draws = drawn.sel(survey=survey, label=label).to_numpy().ravel()
                true = float(truth.sel(survey=survey, label=label).to_numpy().ravel()[0])
                if not np.isfinite(draws).all() or np.ptp(draws) == 0:
                    continue
                mean, sd = draws.mean(), draws.std()
                rows.append((quantity, survey, label, true, mean, sd, (mean - true) / sd))
                z = (mean - true) / sd
                lines.append(f"{quantity:<12} {survey:<11} {label:<6} {true:>9.4g} {mean:>9.4g} {sd:>8.2g} {z:>6.2f}")
    scores = np.array([row[-1] for row in rows])
    lines.append(
        f"rms of z over {len(scores)} quantities: {np.sqrt((scores**2).mean()):.2f} (1 where the posterior is true)"
    )
    names = ("quantity", "survey", "label", "truth", "mean", "sd", "z")
    table = {
        n: np.array(c, dtype=object if n in names[:3] else float)
        for n, c in zip(names, zip(*rows, strict=True), strict=True)
    }
    write_table(out / "recovery.csv", table, {}, {})
    applied = run.apply(out / "data" / "measurements.csv", "lowres")
    write_applied(applied, out / "lowres.csv")
    lines += ["", run.diagnostics_text, f"figures: {out / 'run' / 'offsets.png'}, {out / 'run' / 'before_after.png'}"]
    text = "\n".join(lines)
    write_text(out / "recovery.txt", text + "\n")
    return text, run.passed
