"""The job `evaluate`: label posteriors against labels that are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import chi2 as chi_squared

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.label_tables import in_usual_units
from hbcal.catalogue.read import SENTINELS, Kind, column_names, read_columns
from hbcal.catalogue.values import check_errors, refuse_repeats, rows_of
from hbcal.figures import INK, SOFT, blank
from hbcal.folder import check_out, write_text
from hbcal.labelling import iter_reasons
from hbcal.numerics.intervals import distance, interval_level, joint_level
from hbcal.spectra.formats import detect, read_any

WITHIN = {"within_68": 0.683, "within_95": 0.95}
STORES = (".npz", ".h5", ".hdf5", ".zarr")
COLUMNS = {"within": "of covariances", "quantile": "between quantiles", "draws": "of draws"}
N_BIN = 5


@dataclass(frozen=True)
class Truth:
    """Labels that are known.

    Attributes:
        star: (n_star,) ids.
        labels, labels_err: name -> (n_star,), NaN where missing.
        meta: name -> (n_star,), what coverage is told by beside the labels: a magnitude, S/N ...
    """

    star: np.ndarray
    labels: Mapping[str, np.ndarray]
    labels_err: Mapping[str, np.ndarray]
    meta: Mapping[str, np.ndarray]


def read_truth(path: Path, units: Mapping[str, str] = {}) -> Truth:
    """Read known labels.

    Args:
        path: spectra with labels, of any format that has them; or a table with the columns ``star``, ``<label>``,
            perhaps ``<label>_err``, and others to tell coverage by; columns of words, or of several values a row, are
            none.

    Returns:
        `Truth`, units as in the file.

    Errors:
        HbcalError for a file that cannot be read or has no labels, a star in two rows, and a column that holds numbers
        and words.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "truth.csv"
        ...     _ = path.write_text("star,fe_h,fe_h_err\\na,0.1,0.02\\n")
        ...     truth = read_truth(path)
        >>> truth.star.tolist(), sorted(truth.labels)
        (['a'], ['fe_h'])
    """
    names = [] if path.suffix in STORES else column_names(path)
    if "star" not in names:
        if path.suffix not in STORES and not _of_spectra(path):
            raise HbcalError(f"{path.name} has no column 'star'{closest('star', names)}: stars are matched by it.")
        spectra = read_any([path])
        if not spectra.label_names:
            raise HbcalError(f"{path.name} has no labels: the truth needs them, with their names.")
        columns = lambda table: {n: table[:, l] for l, n in enumerate(spectra.label_names)}  # noqa: E731
        meta = {name: spectra.about(name) for name in spectra.meta_names}
        return Truth(spectra.star, columns(spectra.labels), columns(spectra.labels_err), meta)
    wanted: dict[str, Kind] = {name: "number" if name.endswith("_err") else "either" for name in names}
    found = in_usual_units(read_columns(path, wanted | {"star": "text"}, SENTINELS), units)
    refuse_repeats(found["star"], path.name)
    others = [name for name in names if name != "star" and found[name].dtype != object]
    errors = {name.removesuffix("_err"): found[name] for name in others if name.endswith("_err")}
    values = {name: found[name] for name in others if not name.endswith("_err")}
    nothing = np.full(len(found["star"]), np.nan)
    return Truth(np.asarray(found["star"]), values, {name: errors.get(name, nothing) for name in values}, values)


def _of_spectra(path: Path) -> bool:
    """Whether a table without stars' ids is a survey's file of spectra, such as aspcapStar."""
    try:
        return bool(detect(path))
    except HbcalError:
        return False


def check_truth(truth: Truth, names: Iterable[str], file: str) -> None:
    """Refuse labels whose errors are negative or infinite; of exact labels they are zero.

    Args:
        truth: of `read_truth`.
        names: of the labels that are used.
        file: name of the table.

    Returns:
        Nothing.

    Errors:
        HbcalError with their number and the first row.

    Example:
        >>> bad = Truth(np.array(["a"]), {"fe_h": np.zeros(1)}, {"fe_h": np.array([-0.1])}, {})
        >>> check_truth(bad, ["fe_h"], "t.csv")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Column 'fe_h_err' of t.csv has 1 negative error(s), first in row 1: ...
    """
    for name in names:
        error = truth.labels_err[name]
        check_errors(np.where(error == 0, np.nan, error), f"{name}_err", file)


def evaluate(labels: str | Path, truth: str | Path, out: str | Path) -> dict[str, Any]:
    """Compare label posteriors with known labels: scatter, bias and coverage, over all stars and in bins.

    Labels with draws (``hbcal label --draws``) are judged by those too.

    Args:
        labels: an ``.nc`` of the label schema.
        truth: see `read_truth`; stars are matched by id.
        out: folder to write ``report.txt``, ``report.json`` and ``evaluation.png`` to.

    Returns:
        What ``report.json`` holds: ``all``, ``trusted`` (not flagged) and ``bins``, each a `summary`; and counts.

    Errors:
        HbcalError for files that cannot be read, or share no star or label.

    Example:
        >>> import tempfile
        >>> from hbcal.label import label_spectra
        >>> from hbcal.spectra.container import write_spectra
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     home = Path(folder)
        ...     label_spectra(tiny_emulator(), tiny_spectra(), fast=True).to_netcdf(home / "x.nc", engine="h5netcdf")
        ...     _ = write_spectra(tiny_spectra(), home / "truth.npz")
        ...     found = evaluate(home / "x.nc", home / "truth.npz", home / "report")
        >>> found["all"]["joint"]["n"]
        400.0
    """
    labels, truth, out = Path(labels), Path(truth), Path(out)
    check_out(out)
    if not labels.is_file():
        raise HbcalError(f"{labels}: there is no such file of labels: write one with hbcal label.")
    try:
        found = xr.load_dataset(labels, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise HbcalError(f"{labels} cannot be read as netCDF ({error}): write it again with hbcal label.") from None
    if lacking := [name for name in ("star", "label", "value", "covariance", "flag") if name not in found]:
        raise HbcalError(
            f"{labels.name} is no file of labels, it lacks {some(lacking, 9)}: write one with hbcal label."
        )
    units = [unit.strip() for unit in str(found.attrs.get("units", "")).split(",")]
    known = read_truth(truth, dict(zip(map(str, found["label"].to_numpy()), units, strict=False)))
    rows = rows_of(found["star"].to_numpy(), known.star.tolist())
    asked = [str(name) for name in found["label"].to_numpy()]
    names = [n for n in asked if n in known.labels and np.isfinite(known.labels[n][rows[rows >= 0]]).any()]
    if not (rows >= 0).any() or not names:
        raise HbcalError(
            f"{labels.name} and {truth.name} share {int((rows >= 0).sum())} star(s), and of these values of the labels "
            f"[{some(names, 9)}]: nothing can be compared. Ids are such as {some(found['star'].to_numpy(), 1)} and "
            f"{some(known.star, 1)}; the labels are {some(asked, 9)} and {some(sorted(known.labels), 9)}."
        )
    not_judged = [f"{name}{closest(name, sorted(known.labels))}" for name in asked if name not in names]
    n_not = int((rows < 0).sum())
    check_truth(known, names, truth.name)
    found, rows = found.isel(star=rows >= 0).sel(label=names, label_2=names), rows[rows >= 0]
    true, err = (np.stack([table[name][rows] for name in names], axis=1) for table in (known.labels, known.labels_err))
    flag = found["flag"].to_numpy()
    trusted = ~flag if flag.dtype == bool else flag == ""  # `hbcal apply` says in words which label has no answer
    result: dict[str, Any] = {
        "n_star": len(rows), "n_star_without_truth": n_not, "labels_without_truth": not_judged,
        "n_flagged": int((~trusted).sum()), "reasons": list(iter_reasons(found)),
        "all": summary(found, true, err),
        "trusted": summary(found.isel(star=trusted), true[trusted], err[trusted]),
        "bins": _bins(found, true, err, names, {k: v[rows] for k, v in known.meta.items() if k not in names}),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(result, indent=1))
    write_text(out / "report.txt", report_text(result))
    _draw(found, true, err, names, out / "evaluation.png")
    return result


def _bins(
    labels: xr.Dataset, truth: np.ndarray, err: np.ndarray, names: list[str], meta: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Summaries in equally filled bins of every label, as it is known, and of everything else that is known."""
    by = {name: truth[:, l] for l, name in enumerate(names)} | dict(meta)
    out = {}
    for name, values in by.items():
        some = values[np.isfinite(values)]
        edges = np.unique(np.quantile(some, np.linspace(0, 1, N_BIN + 1))) if some.size else some
        for low, high in pairwise(edges):
            here = (values >= low) & ((values < high) | (high == edges[-1]) & (values == high))
            out[f"{name} {low:.4g} to {high:.4g}"] = summary(labels.isel(star=here), truth[here], err[here])
    return out


def report_text(result: Mapping[str, Any]) -> str:
    """The result of `evaluate` for people.

    Args:
        result: of `evaluate`.

    Returns:
        Lines of text.

    Errors:
        None.

    Example:
        >>> one = dict.fromkeys(("n", "median", "robust_sd", "rms", "z_sd", "within_68", "within_95"), 1.0)
        >>> told = {"n_star": 2, "n_flagged": 0, "reasons": [], "all": {"fe_h": one}, "trusted": {}, "bins": {}}
        >>> print(report_text(told).splitlines()[-1])
        all                              fe_h          1    +1.0000     1.0000     1.0000  1.00  100.0   100.0
    """
    shown = [kind for kind in COLUMNS if any(f"{kind}_68" in one for one in result["all"].values())]
    lines = [
        f"{result['n_star']} stars with known labels, {result['n_flagged']} flagged"
        + (f" ({', '.join(result['reasons'])})" if result["reasons"] else "")
        + (f"; {n} stars without" if (n := result.get("n_star_without_truth")) else "")
        + (f"; the truth lacks {', '.join(names)}" if (names := result.get("labels_without_truth")) else ""),
        "values less truth; z = that over sqrt(variance + truth's); shares of stars inside 68.3% and 95% intervals",
        f"{'stars':<32} {'label':<8} {'n':>6} {'median':>10} {'robust sd':>10} {'rms':>10} {'z sd':>5} {'68.3%':>6} "
        f"{'95%':>7}",
    ]
    lines[1] += ": " + ", then ".join(COLUMNS[kind] for kind in shown)
    lines[2] += f" {'68.3%':>6} {'95%':>7}" * (len(shown) - 1)
    for group, told in {"all": result["all"], "not flagged": result["trusted"], **result["bins"]}.items():
        for label, one in told.items():
            numbers = (
                f"{one['median']:>+10.4f} {one['robust_sd']:>10.4f} {one['rms']:>10.4f} {one['z_sd']:>5.2f}"
                if "median" in one else " " * 38
            )  # fmt: skip
            shares = " ".join(
                f"{100 * one[f'{kind}_68']:>6.1f} {100 * one[f'{kind}_95']:>7.1f}" if f"{kind}_68" in one else " " * 14
                for kind in shown
            )
            lines.append(f"{group:<32} {label:<8} {one['n']:>6.0f} {numbers} {shares}")
    return "\n".join(lines) + "\n"


def _draw(labels: xr.Dataset, truth: np.ndarray, err: np.ndarray, names: list[str], path: Path) -> None:
    """Values against truth, and how often intervals of each probability hold it; last, regions of all labels."""
    figure = blank(3.2 * (len(names) + 1), 6.0)
    axes = figure.subplots(2, len(names) + 1, squeeze=False)
    axes[0, -1].set_visible(False)
    value, levels = labels["value"].to_numpy(), _levels(labels, truth, err)
    claimed = np.linspace(0.02, 0.98, 49)
    for l, name in enumerate([*names, "all labels together"]):
        below = axes[1, l]
        for (kind, level), style in zip(levels.items(), ({"color": INK}, {"color": SOFT, "ls": "--"}), strict=False):
            known = level[np.isfinite(level[:, l]), l]
            if known.size:
                text = "covariances" if kind == "within" else "draws"
                below.plot(claimed, [(known <= p).mean() for p in claimed], label=text, **style)
        below.plot([0, 1], [0, 1], color="0.5", lw=0.8)
        below.set(xlabel="probability claimed", ylabel="share of stars held", title=name)
        if l == len(names):
            below.legend(loc="upper left", fontsize=8)
            break
        ok = np.isfinite(value[:, l]) & np.isfinite(truth[:, l])
        axes[0, l].plot(truth[ok, l], value[ok, l], ",", color=INK)
        axes[0, l].axline((truth[ok, l].mean(),) * 2, slope=1.0, color="0.5", lw=0.8)
        axes[0, l].set(xlabel=f"{name}, known", ylabel=f"{name}, from spectra")
    figure.savefig(path, dpi=120)


def summary(labels: xr.Dataset, truth: np.ndarray, truth_err: np.ndarray) -> dict[str, dict[str, float]]:
    """Scatter, bias and coverage of label posteriors, label by label and jointly.

        z = (value - truth) / sqrt(covariance + truth_err^2)

    Args:
        labels: of the label schema.
        truth: (n_star, n_label) in the order of `labels`, NaN where it is not known.
        truth_err: its errors; NaN counts as 0.

    Returns:
        Per label n, median, robust_sd (1.4826 MAD about the median), rms, z_sd, within_68 and within_95 (shares); under
        ``joint`` the shares of stars whose truth lies in the joint region of that probability. Where the labels have
        quantiles, also quantile_68 and quantile_95, with the truth's error added to either side in quadrature; where
        they have draws, draws_68 and draws_95: of the intervals between the draws' quantiles, and of the joint regions
        that hold that share of the draws.

    Errors:
        None.

    Example:
        >>> ds = xr.Dataset(
        ...     {"value": (("star", "label"), np.zeros((2, 1))),
        ...      "covariance": (("star", "label", "label_2"), np.ones((2, 1, 1)))}, {"label": ["fe_h"]})
        >>> summary(ds, np.array([[0.5], [3.0]]), np.zeros((2, 1)))["fe_h"]["within_68"]
        0.5
    """
    off = labels["value"].to_numpy() - truth
    sd = np.sqrt(np.einsum("sll->sl", _total(labels, truth_err)))
    inside = {
        name.replace("within", kind): level <= claim
        for kind, level in _levels(labels, truth, truth_err).items()
        for name, claim in WITHIN.items()
    }
    between = _between(labels, truth, truth_err)
    out = {}
    for l, name in enumerate(labels["label"].to_numpy()):
        ok = np.isfinite(off[:, l])
        if ok.any():
            held = {k: float(each[ok, l].mean()) for k, each in (inside | between).items()}
            out[str(name)] = _one(off[ok, l], sd[ok, l]) | held
    whole = np.isfinite(off).all(axis=1)
    if whole.any():
        out["joint"] = {"n": float(whole.sum())} | {k: float(each[whole, -1].mean()) for k, each in inside.items()}
    return out


def _one(off: np.ndarray, sd: np.ndarray) -> dict[str, float]:
    median = float(np.median(off))
    return {
        "n": float(len(off)), "median": median, "robust_sd": float(1.4826 * np.median(np.abs(off - median))),
        "rms": float(np.sqrt((off**2).mean())), "z_sd": float((off / sd).std()),
    }  # fmt: skip


def _total(labels: xr.Dataset, truth_err: np.ndarray) -> np.ndarray:
    """Covariance of value less truth."""
    err = np.where(np.isfinite(truth_err), truth_err, 0.0)
    return labels["covariance"].to_numpy() + err[:, :, None] ** 2 * np.eye(err.shape[1])


def _levels(labels: xr.Dataset, truth: np.ndarray, truth_err: np.ndarray) -> dict[str, np.ndarray]:
    """Of what probability the region is that just holds the truth: uniform where claims hold; (n_star, n_label + 1).

    The last column is that of all labels together. ``within``: Gaussians; ``draws``: the draws, where there are any.
    """
    off, total = labels["value"].to_numpy() - truth, _total(labels, truth_err)
    whole = np.isfinite(off).all(axis=1)
    square = np.full((len(off), off.shape[1] + 1), np.nan)
    square[:, :-1] = off**2 / np.einsum("sll->sl", total)
    square[whole, -1] = distance(off[whole], total[whole])
    found = {"within": chi_squared.cdf(square, [1] * off.shape[1] + [off.shape[1]])}
    if "draws" not in labels:
        return found
    draws = labels["draws"].transpose("star", "draw", "label").to_numpy()
    share = labels["weight"].to_numpy() if "weight" in labels else np.ones(draws.shape[:2])
    share = share / share.sum(axis=1, keepdims=True)
    err = np.where(np.isfinite(truth_err), truth_err, 0.0)[:, None]
    apart = truth[:, None] - draws
    level = np.full(square.shape, np.nan)
    level[:, :-1] = interval_level(apart, share, err[:, 0])
    noise = np.random.default_rng(0).normal(size=draws.shape) * err
    around = (draws + noise - labels["value"].to_numpy()[:, None])[whole]
    level[whole, -1] = joint_level(around, share[whole], off[whole], total[whole])
    return found | {"draws": level}


def _between(labels: xr.Dataset, truth: np.ndarray, truth_err: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the truth lies between quantiles; (n_star, n_label)."""
    if "quantile" not in labels:
        return {}
    err, out = np.where(np.isfinite(truth_err), truth_err, 0.0), {}
    middle = labels["quantile"].sel(probability=0.5).to_numpy()
    for name, low, sd in (("quantile_68", 0.1587, 1.0), ("quantile_95", 0.025, 1.96)):
        below, above = (labels["quantile"].sel(probability=p, method="nearest").to_numpy() for p in (low, 1.0 - low))
        out[name] = (truth > middle - np.hypot(middle - below, sd * err)) & (
            truth < middle + np.hypot(above - middle, sd * err))  # fmt: skip
    return out
