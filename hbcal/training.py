"""The job `train emulator`: labelled spectra in, an emulator in a folder out. Read it top to bottom."""

from __future__ import annotations

import json
import platform
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hbcal import __version__
from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.read import sha256
from hbcal.emulator.autoregressive import AutoregressiveEmulator
from hbcal.emulator.base import MOST_MISSING, Emulator, Known, population_of, stretched
from hbcal.emulator.choose import SEEN_AT, as_seen, method_for, noise_of, noiseless
from hbcal.emulator.files import ABOUT, about_emulator, load_emulator, save_emulator
from hbcal.emulator.independent import refuse_few_pixels, train_independent
from hbcal.emulator.pixels import PixelEmulator
from hbcal.emulator.processes import MOST_STARS
from hbcal.emulator.train_full import train_full
from hbcal.emulator.train_guide import tune_guide
from hbcal.emulator.train_network import NetworkSettings, train_networks
from hbcal.folder import check_out, digest, identity, locked, write_text
from hbcal.label import label_spectra
from hbcal.numerics.principal import principal_directions
from hbcal.numerics.spread import n_sign
from hbcal.numerics.true_labels import true_labels
from hbcal.spectra.container import Spectra
from hbcal.spectra.formats import read_any
from hbcal.spectra.normalise import normalised
from hbcal.spectra.pixels import mostly_there, within
from hbcal.training_stars import (
    chosen,
    exact_labels,
    known_of_some,
    refuse_alike,
    refuse_empty,
    same_sky,
    uneven,
    usable,
    with_labels,
)
from hbcal.unseen import MANY, failures, labelled_apart, told_by, with_spread, with_usual

SETTINGS = NetworkSettings()
METHODS = ("auto", "network", "quadratic", "process")
NOISE = ("auto", "independent", "correlated")
UNSEEN, TEST = 0.1, 0.05  # of the stars: to stop and temper the training, and to say how good it is
N_LINEAR = 30


class CoverageWarning(UserWarning):
    """Intervals of stars that an emulator was not fitted to hold far fewer true labels than they claim."""


@dataclass(frozen=True)
class Split:
    """Rows of the training stars: what is fitted, what stops and tempers it, what says how good it is."""

    fit: np.ndarray
    unseen: np.ndarray
    test: np.ndarray


def train_emulator(
    spectra: Spectra | Sequence[str | Path],
    out: str | Path,
    *,
    labels: str | Path | None = None,
    method: str = "auto",
    noise: str = "auto",
    meta: Sequence[str] = (),
    label_names: Sequence[str] = (),
    wave: Sequence[tuple[float, float]] = (),
    normalise: float = 0.0,
    seed: int = 0,
    resume: bool = False,
    settings: NetworkSettings = SETTINGS,
    progress: Callable[[str], None] | None = None,
) -> Emulator:
    """Learn what spectra look like from their stars' labels, noise of spectra and labels included.

    Args:
        spectra: with labels; or files of the plain container or any survey's format that is known.
        out: folder of the emulator; must not hold anything unless `resume`.
        labels: table of labels by star, with errors in ``<label>_err``, instead of those of the spectra.
        method: ``"network"``; ``"quadratic"``; ``"process"`` for some hundreds of spectra of independent pixels and
            exact labels, as of a synthetic grid; ``"auto"``, this where it is so, else networks where there are stars
            enough for them.
        noise: ``"independent"`` where each pixel's error stands for itself, ``"correlated"`` where what is left over
            has a covariance to be learned, as with Gaia XP; ``"auto"`` decides by how residuals of neighbouring pixels
            of unseen stars correlate, see `hbcal.emulator.independent.neighbours_correlate`.
        meta: names of what is measured beside the spectra and is data as they are, such as magnitudes; or ``bp-rp``,
            the difference of two. For correlated noise.
        label_names: those of the labels that are to be learned; all where none is named.
        wave: pairs (low, high) of wavelengths; only pixels within one of them are learned, and labelled by; all where
            none is given. For correlated noise pixels that more than a tenth of the stars lack are left out besides.
        normalise: width, in wavelengths, of a smooth curve that spectra are divided by, see `hbcal.spectra.normalise`;
            labelling does the same. 0 takes them as they are.
        seed: of split, start and order.
        resume: go on with a training that was interrupted.
        settings: of the networks.
        progress: called with lines of text.

    Returns:
        The emulator, also kept in `out` with its learning curves and what unseen stars say of it.

    Errors:
        HbcalError for anything wrong with spectra, labels or folder, before anything is written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     emulator = train_emulator(tiny_spectra(), Path(folder) / "model", method="quadratic")
        >>> emulator.known.label_names
        ('teff', 'fe_h')
    """
    say, out = progress or (lambda text: None), Path(out)
    check_out(out, resume=resume)
    if method not in METHODS:
        raise HbcalError(f"There is no method {method!r} of training an emulator{closest(method, METHODS)}.")
    if noise not in NOISE:
        raise HbcalError(f"There is no noise {noise!r} of an emulator{closest(noise, NOISE)}.")
    meta = (meta,) if isinstance(meta, str) else tuple(meta)
    made_of: dict[Path, str] = {}
    if not isinstance(spectra, Spectra):
        made_of = {Path(file): "" for file in spectra}
        spectra = read_any(list(made_of))
    if labels is not None:
        made_of[Path(labels)] = ""
        spectra, text = with_labels(spectra, Path(labels))
        say(text)
    made_of = {file: sha256(file) if file.is_file() else "" for file in made_of}
    if label_names:
        spectra = chosen(spectra, (label_names,) if isinstance(label_names, str) else label_names)
    if not spectra.label_names:
        raise HbcalError("The spectra have no labels: training needs labels, labels_err and label_names.")
    raw = within(spectra, wave) if wave else spectra
    spectra = normalised(raw, normalise) if normalise else raw
    if method == "process" and noise == "correlated":
        raise HbcalError("Gaussian processes are for independent pixels: use --method network or quadratic.")
    if noise == "auto":
        noise, why = noise_of(spectra, method)
        say(why)
    if method == "auto":
        method = method_for(spectra, noise)
        say(f"method: {method}")
    if meta and noise == "independent":
        raise HbcalError(
            f"What is measured beside the spectra ({some(meta, 9)}) is for emulators of correlated pixels: use --noise "
            "correlated with --method network or quadratic, or leave --meta away."
        )
    if noise == "independent" and not normalise and (text := uneven(spectra)):
        say(text)
    if noise == "correlated":
        raw, n_seldom = mostly_there(raw, 1.0 - MOST_MISSING)
        if n_seldom:
            spectra = normalised(raw, normalise) if normalise else raw  # by the pixels that labelling will see
            say(f"left out: {n_seldom} of {n_seldom + len(raw.wave)} pixels, which more than a tenth of the stars lack")
    for text in (exact_labels(spectra), known_of_some(spectra)):
        if text:
            say(text)
    spectra, left_out = usable(spectra, method, noise, meta)
    if noise == "independent":
        refuse_few_pixels(len(spectra.wave), len(spectra.label_names), method)
    beside = spectra.beside(meta)
    if beside is not None:
        refuse_alike(beside, meta)
    for reason, n in left_out.items():
        say(f"left out: {n}, {reason}")
    star = same_sky(spectra)
    if n_more := len(star) - len(np.unique(star)):
        say(f"{n_more} spectra are of stars that have another, within 2 arcsec: they are fitted, or not, together")
    split = _split(star, seed, 0.0 if method == "process" else UNSEEN)
    refuse_empty(spectra.labels[split.fit], spectra.label_names)  # they set the scale
    if method == "process" and len(split.fit) > MOST_STARS:
        raise HbcalError(
            f"{len(split.fit)} training stars are too many for Gaussian processes, which take {MOST_STARS}: use "
            "--method network or quadratic."
        )
    mark = {
        "hbcal": __version__, "method": method, "noise": noise, "seed": seed, "settings": asdict(settings),
        "label_names": list(spectra.label_names), "meta": list(meta), "normalise": normalise,
        "within": [list(map(float, each)) for each in wave],
        "data": identity({
            k: digest(getattr(spectra, k)) for k in ("wave", "flux", "flux_err", "labels", "labels_err", "flux_corr")
            if getattr(spectra, k).size
        } | {"meta": "" if beside is None else digest(beside), "fit": digest(split.fit)}),
    }  # fmt: skip
    _refuse_another(out, mark)
    if (out / ABOUT).exists():
        say(f"{out} is complete already: nothing to resume")
        return load_emulator(out)

    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        (out / "training").mkdir(exist_ok=True)
        write_text(out / "training" / "mark.json", json.dumps(mark, indent=1))
        known, mean, root, width = _labels(spectra, split, noise)
        known = replace(known, meta_names=tuple(meta))
        stop = f"{len(split.unseen)} to stop by, " if len(split.unseen) else ""
        say(f"training on {len(split.fit)} stars, {stop}{len(split.test)} to test")
        emulator: Emulator
        if noise == "independent":
            emulator, curves = train_independent(
                known, mean, root, spectra, split.fit, method, seed=seed, folder=out / "training", progress=say
            )
        elif method == "network":
            settings = replace(settings, train=replace(settings.train, seed=seed))
            emulator, curves = train_networks(
                known, spectra.flux, spectra.flux_err, mean, root, width, split.unseen, split.fit, settings,
                meta=beside, folder=out / "training", progress=say,
            )  # fmt: skip
            emulator, curves["tuned guide"] = _tuned(emulator, spectra.take(split.fit), settings, out / "training")
        else:
            stars, curves = spectra.take(split.fit), {}
            fitted = (mean[split.fit], (root @ np.swapaxes(root, 1, 2))[split.fit])
            reported = (stars.labels - known.centre) / known.unit, stars.labels_err / known.unit
            emulator, x = train_full(
                known, *fitted, *reported, stars.flux, stars.flux_err, stars.beside(meta), progress=say
            )
            emulator = replace(emulator, known=known.around(x))
        if curves:
            _write_curves(out / "curves.csv", curves)
        seen: Spectra = spectra
        if noise == "independent" and noiseless(spectra):
            say(f"spectra have hardly any noise: those that are labelled are given S/N {SEEN_AT:g}")
            seen = as_seen(spectra, seed)
        some_unseen, many = len(split.unseen) > 20, len(split.unseen) >= MANY
        if isinstance(emulator, PixelEmulator) and method == "process":  # every star is fitted, and left out in turn
            features = emulator.features
            fit = lambda rows: train_independent(  # noqa: E731
                known, mean, root, spectra, rows, method, seed=seed, like=features
            )[0]
            found, aside = labelled_apart(
                fit, seen, split.fit, star=star, seed=seed, folder=out / "training", progress=say
            )
        else:
            aside = seen.take(split.unseen if some_unseen else split.fit)
            found = label_spectra(emulator, aside, fast=True, keep_draws=True, weighted=True)
        emulator = narrow = with_usual(emulator, found)
        tempered = method == "process" or (noise == "correlated" and method == "network")
        alone = np.concatenate([split.unseen, split.test])  # nothing is fitted to them unless posteriors are widened
        told = {} if tempered else told_by(emulator, seen, alone)
        each_star = len(np.unique(star[alone])) / max(len(alone), 1)
        narrowly, n_told = failures(told, each_star), len(alone)
        if tempered or narrowly:
            emulator = with_spread(narrow, found, aside, many=many)
            told, n_told = told_by(emulator, seen, split.test), len(split.test)
            if some_unseen:  # told by stars that set nothing; kept is what all set
                aside = seen.take(alone)
                found = label_spectra(narrow, aside, fast=True, keep_draws=True, weighted=True)
                emulator = with_spread(narrow, found, aside, many=many)
        wider = dict(zip(known.label_names, np.exp(np.asarray(emulator.known.spread)[0]).tolist(), strict=True))
        say("sd of labels, as unseen stars ask for, times " + ", ".join(f"{x:.2f} ({n})" for n, x in wider.items()))
        for label, each in told.items():
            say(f"test, {n_told} stars, {label}: " + ", ".join(f"{k} {v:.4g}" for k, v in each.items()))
        amiss = failures(told, each_star)
        if amiss or narrowly:
            text = (
                f"The posteriors of the emulator in {out} do not hold what they claim: {'; '.join(amiss or narrowly)}"
            )
            cure = (
                "" if amiss else "; they have been made wider until they do: labels' errors, form or spectra are wrong"
            )
            warnings.warn(text + cure, CoverageWarning, stacklevel=2)
        about = mark | {
            "failures": amiss, "failures_before": narrowly, "sd_times": wider,
            "left_out": left_out, "n_star": {k: len(v) for k, v in vars(split).items()}, "test": told,
            "files": {str(file): found for file, found in made_of.items()},
            "versions": {"python": platform.python_version(), "jax": jax.__version__}, "machine": platform.machine(),
        }  # fmt: skip
        known = replace(emulator.known, normalise=normalise)  # from here on labelling does it
        emulator = replace(emulator, known=known)  # type: ignore[type-var]
        save_emulator(emulator, out, about)
        shutil.rmtree(out / "training")
    return emulator


def _split(star: np.ndarray, seed: int, unseen: float) -> Split:
    """All spectra in three parts, those of one star in one; `unseen` is the share that tempers an emulator."""
    place = np.argsort(np.random.default_rng([seed, 17]).permutation(len(star)))
    first = np.full(star.max(initial=-1) + 1, len(star))
    np.minimum.at(first, star, place)
    order = np.lexsort((place, first[star]))
    ends = np.flatnonzero(np.diff(star[order], append=-1)) + 1  # where a star's spectra end
    cut = [0 if not n else int(ends[np.searchsorted(ends, n)]) for n in
           (round(unseen * len(star)), round(unseen * len(star)) + round(TEST * len(star)))]  # fmt: skip
    return Split(order[cut[1] :], order[: cut[0]], order[cut[0] : cut[1]])


def _labels(spectra: Spectra, split: Split, noise: str) -> tuple[Known, np.ndarray, np.ndarray, np.ndarray]:
    """What is known of the training stars; their true labels as means and roots; labels' sd given a spectrum."""
    centre, unit = np.nanmean(spectra.labels[split.fit], axis=0), np.nanstd(spectra.labels[split.fit], axis=0)
    y = spectra.flux if noise == "independent" else stretched(spectra.flux)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pixel that no star has
        y = y - np.nanmean(y[split.fit], axis=0)
    y = np.where(np.isfinite(y), y, 0.0)
    n_linear = min(N_LINEAR, len(split.fit) // 20 + 1, y.shape[1])
    seen = y @ principal_directions(y[split.fit], n_linear)
    seen /= np.maximum(seen[split.fit].std(axis=0), 1e-12)
    mean, cov, left = true_labels((spectra.labels - centre) / unit, spectra.labels_err / unit, seen)
    root = np.linalg.cholesky(cov)
    population = population_of(mean[split.fit])
    usual, spread = np.array([np.inf]), np.zeros((n_sign(len(unit)), len(unit)))
    tail, kept = np.zeros(1 + len(unit)), np.ones(())
    known = Known(
        centre, unit, *population[:2], usual, spread, tail, kept, population[2], spectra.wave, spectra.label_names
    )
    return known, mean, root, np.sqrt(np.diag(left))


def _tuned(
    emulator: AutoregressiveEmulator, spectra: Spectra, settings: NetworkSettings, folder: Path
) -> tuple[AutoregressiveEmulator, np.ndarray]:
    """The emulator whose guide knows its posteriors of the training stars."""
    found = label_spectra(emulator, spectra, fast=True, keep_draws=True, weighted=True)
    x = (found["draws"].to_numpy() - emulator.known.centre) / emulator.known.unit
    return tune_guide(
        emulator, spectra.flux, spectra.flux_err, x, found["weight"].to_numpy(), settings.train,
        dropout=settings.dropout, meta=spectra.beside(emulator.known.meta_names), state=folder / "tuned.npz",
    )  # fmt: skip


def _refuse_another(out: Path, mark: dict[str, Any]) -> None:
    """A folder may be empty, or hold this very training, begun or complete."""
    if (out / ABOUT).exists():
        was: dict[str, Any] = about_emulator(out)
    elif (out / "training" / "mark.json").exists():
        was = json.loads((out / "training" / "mark.json").read_text())
    elif out.is_dir() and any(path.name != ".lock" for path in out.iterdir()):
        raise HbcalError(f"The folder {out} holds something that is not an emulator: choose another --out.")
    else:
        return
    mark = json.loads(json.dumps(mark))
    differ = [key for key in mark if was.get(key) != mark[key]]
    if differ:
        raise HbcalError(
            f"The training in {out} was started with another {' and '.join(differ)}: resume it with what it was "
            "started with, or choose another --out."
        )


def _write_curves(path: Path, curves: dict[str, np.ndarray]) -> None:
    lines = ["network,epoch,loss,score"]
    lines += [f"{name},{at},{loss:.6g},{score:.6g}" for name, c in curves.items() for at, (loss, score) in enumerate(c)]
    write_text(path, "\n".join(lines) + "\n")
