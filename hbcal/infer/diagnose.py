"""The gate every posterior passes or fails: R-hat, effective sample sizes, divergences, E-BFMI."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

R_HAT_MOST, ESS_LEAST, BFMI_LEAST = 1.01, 400.0, 0.3


@dataclass(frozen=True)
class Diagnostics:
    """What was measured on a posterior, and whether it passes.

    Attributes:
        r_hat: largest over all free quantities, and which it was.
        ess_bulk, ess_tail: smallest, and which.
        divergences: number of divergent transitions after warmup.
        bfmi: smallest E-BFMI over the chains.
        n_quantity: how many free quantities were judged.
        failures: one sentence per criterion that is not met; empty when the gate is passed.
    """

    r_hat: float
    r_hat_of: str
    ess_bulk: float
    ess_bulk_of: str
    ess_tail: float
    ess_tail_of: str
    divergences: int
    bfmi: float
    n_quantity: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """For ``diagnostics.json``, with the limits."""
        limits = {"r_hat": R_HAT_MOST, "ess": ESS_LEAST, "bfmi": BFMI_LEAST, "divergences": 0}
        return {"passed": self.passed, **asdict(self), "limits": limits}

    def text(self) -> str:
        """One line for people."""
        energy = f", {self.divergences} divergences, E-BFMI >= {self.bfmi:.2f}" if np.isfinite(self.bfmi) else ""
        verdict = "PASSED" if self.passed else "FAILED: " + "; ".join(self.failures)
        return (
            f"diagnostics of {self.n_quantity} quantities: R-hat <= {self.r_hat:.4f}, bulk ESS >= {self.ess_bulk:.0f}, "
            f"tail ESS >= {self.ess_tail:.0f}{energy}: {verdict}"
        )


class Judged:
    """What a run of any kind says of its gate; its `tree` carries `Diagnostics.as_dict` as JSON.

    Attributes:
        tree: DataTree with ``diagnostics`` in its attrs.
    """

    tree: xr.DataTree

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What the gate measured, and ``passed``."""
        return json.loads(self.tree.attrs["diagnostics"])

    @property
    def passed(self) -> bool:
        """Whether the posterior passed its diagnostics."""
        return bool(self.diagnostics["passed"])

    @property
    def diagnostics_text(self) -> str:
        """The gate in one line."""
        d = {k: v for k, v in self.diagnostics.items() if k not in ("passed", "limits")}
        return Diagnostics(**{**d, "failures": tuple(d["failures"])}).text()


def table(posterior: xr.Dataset) -> dict[str, dict[str, np.ndarray]]:
    """R-hat and effective sample sizes of every entry of every variable.

    Args:
        posterior: variables with dims (chain, draw, ...); any units.

    Returns:
        Variable -> {"r_hat", "ess_bulk", "ess_tail"}, each of the variable's remaining shape; NaN for constants.

    Errors:
        None.

    Example:
        >>> import numpy as np, xarray as xr
        >>> x = np.random.default_rng(0).normal(size=(4, 500))
        >>> t = table(xr.Dataset({"x": (("chain", "draw"), x)}))
        >>> bool(t["x"]["r_hat"] < 1.01)
        True
    """
    from arviz_stats.base import array_stats

    out = {}
    for name, variable in posterior.data_vars.items():
        values = variable.transpose("chain", "draw", ...).to_numpy()
        rest = values.shape[2:]
        flat = values.reshape(*values.shape[:2], -1)
        stats = np.full((3, flat.shape[2]), np.nan)
        for j in range(flat.shape[2]):
            one = flat[:, :, j]
            if np.isfinite(one).all() and np.ptp(one) > 0:
                with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved: infinite, and judged so
                    stats[0, j] = array_stats.rhat(one, chain_axis=0, draw_axis=1)
                stats[1, j] = array_stats.ess(one, chain_axis=0, draw_axis=1, method="bulk")
                stats[2, j] = array_stats.ess(one, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
        shaped = stats.reshape(3, *rest)
        out[str(name)] = {"r_hat": shaped[0], "ess_bulk": shaped[1], "ess_tail": shaped[2]}
    return out


def diagnose(posterior: xr.Dataset, stats: xr.Dataset) -> Diagnostics:
    """Judge a posterior.

    Args:
        posterior: variables with dims (chain, draw, ...).
        stats: ``diverging`` and ``energy``, dims (chain, draw); of a fit in stages also ``diverging_...``; nothing of
            a sampler without energies.

    Returns:
        `Diagnostics`; constants and entries that do not exist (NaN) are not judged.

    Errors:
        None: what cannot be computed counts as failed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> dims, x, energy = ("chain", "draw"), rng.normal(size=(4, 500)), rng.normal(size=(4, 500))
        >>> stats = xr.Dataset({"diverging": (dims, x > 99), "energy": (dims, energy)})
        >>> diagnose(xr.Dataset({"x": (dims, x)}), stats).passed
        True
    """
    worst = {"r_hat": (-np.inf, "none"), "ess_bulk": (np.inf, "none"), "ess_tail": (np.inf, "none")}
    n_quantity = 0
    for name, entries in table(posterior).items():
        n_quantity += int(np.isfinite(entries["r_hat"]).sum())
        dims = [d for d in posterior[name].dims if d not in ("chain", "draw")]
        for kind, values in entries.items():
            if np.isfinite(values).any():
                pick = np.nanargmax(values) if kind == "r_hat" else np.nanargmin(values)
                at = np.unravel_index(pick, values.shape)
                if (values[at] > worst[kind][0]) == (kind == "r_hat"):
                    where = [
                        str(posterior[d].values[i]) if d in posterior.coords else str(i)
                        for d, i in zip(dims, at, strict=True)
                    ]
                    worst[kind] = (float(values[at]), f"{name}[{', '.join(where)}]" if where else name)
    energies = [_bfmi(v) for name, v in stats.data_vars.items() if str(name).startswith("energy")]
    bfmi = float(np.min(energies)) if energies else np.inf  # Gibbs' sampler alone has no energy
    divergences = sum(int(v.sum()) for name, v in stats.data_vars.items() if str(name).startswith("diverging"))
    (r_hat, r_of), (bulk, bulk_of), (tail, tail_of) = worst["r_hat"], worst["ess_bulk"], worst["ess_tail"]
    failures = []
    broken = [str(name) for name, v in posterior.data_vars.items() if _partly_missing(v)]
    if broken or not n_quantity:
        failures.append(f"{', '.join(broken)} has draws that are no numbers" if broken else "nothing to judge")
    if not r_hat <= R_HAT_MOST:
        failures.append(f"R-hat of {r_of} is {r_hat:.3f}, more than {R_HAT_MOST}")
    if not bulk >= ESS_LEAST:
        failures.append(f"bulk ESS of {bulk_of} is {bulk:.0f}, less than {ESS_LEAST:.0f}")
    if not tail >= ESS_LEAST:
        failures.append(f"tail ESS of {tail_of} is {tail:.0f}, less than {ESS_LEAST:.0f}")
    if divergences:
        failures.append(f"{divergences} divergent transitions")
    if not bfmi >= BFMI_LEAST:
        failures.append(f"E-BFMI is {bfmi:.2f}, less than {BFMI_LEAST}")
    return Diagnostics(r_hat, r_of, bulk, bulk_of, tail, tail_of, divergences, bfmi, n_quantity, tuple(failures))


def _bfmi(energy: xr.DataArray) -> float:
    values = energy.transpose("chain", "draw").to_numpy()
    spread = values.var(axis=1)
    return float(np.min((np.diff(values, axis=1) ** 2).mean(axis=1) / np.where(spread > 0, spread, np.nan)))


def _partly_missing(variable: xr.DataArray) -> bool:
    """Whether an entry has draws that are numbers and others that are not; one of NaN alone does not exist."""
    finite = np.isfinite(variable.transpose("chain", "draw", ...).to_numpy())
    return bool((finite.any((0, 1)) & ~finite.all((0, 1))).any())
