"""Compute a grid of spectra: side by side, one file for each that is done, and all in one file at the end."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.folder import identity, locked, write_npz, write_text
from hbcal.spectra.container import Spectra
from hbcal.synthesis.abundances import mixture, solar_scale
from hbcal.synthesis.atmospheres import AtmosphereSet, corners, digest, interpolate, open_atmospheres
from hbcal.synthesis.broaden import broaden
from hbcal.synthesis.control import n_pixels
from hbcal.synthesis.marcs import read_mod
from hbcal.synthesis.spec import GridSpec, load_grid
from hbcal.synthesis.stars import SINGLE, Stars, expand, inside, physical
from hbcal.synthesis.store import read_provenance, write_container
from hbcal.synthesis.turbospectrum import Turbospectrum, find_turbospectrum, synthesize

ROUNDING = 1e-5 / np.sqrt(12.0)  # bsyn writes five decimals: the standard deviation of what that cuts off
IN_DATA = "DATA/"  # of Turbospectrum itself
META = ("vmicro", "alpha_m")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """What came of a grid.

    Attributes:
        spectra: those in the file.
        provenance: what was written with them.
        failed: why a star has no spectrum, by its name.
    """

    spectra: Spectra
    provenance: dict[str, Any]
    failed: dict[str, str]


@dataclass(frozen=True)
class _Work:
    """Everything a worker needs."""

    spec: GridSpec
    stars: Stars
    atmospheres: AtmosphereSet
    used: tuple[Path, ...]
    program: Turbospectrum
    lines: tuple[Path, ...]
    parts: Path


def synthesize_grid(
    grid: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Compute the spectra that a file declares, and write them as one plain container.

    Each finished spectrum is a file in the folder ``OUT.parts``, so an interrupted run loses at most the spectra that
    were under way; the folder goes when all is written.

    Args:
        grid: TOML file, see `hbcal.synthesis.spec.GridSpec`.
        out: the ``.npz`` to write.
        workers: how many spectra at a time; as many as there are cores by default.
        resume: go on with what ``OUT.parts`` holds, or start where there is none.
        progress: called with a line of text after each spectrum.

    Returns:
        The spectra, their provenance, and which stars failed. A star fails alone; it is left out of the file, and the
        parts are kept so that resuming tries it again.

    Errors:
        HbcalError before anything is computed: for the file's mistakes, for a missing program, atmosphere or line list,
        for stars outside the atmospheres, for an output that is in use or stems from another grid; and after, where
        every star failed.

    Example:
        >>> synthesize_grid(Path("grid.toml"), Path("spectra.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The output spectra.fits must end in .npz.
    """
    grid, out = Path(grid), Path(out)
    if out.suffix != ".npz":
        raise HbcalError(f"The output {out} must end in .npz.")
    parts = out.with_name(out.name + ".parts")
    if not resume:
        for path, what in ((out, "exists"), (parts, "holds an interrupted run")):
            if path.exists():
                raise HbcalError(f"{path} {what}: choose another --out, or go on with --resume.")
    if not out.parent.is_dir():
        raise HbcalError(f"The output {out} cannot be written: there is no folder {out.parent}.")
    if workers is not None and workers < 1:
        raise HbcalError(f"workers is {workers}: it must be at least 1.")
    spec = load_grid(grid)
    work = _prepare(spec, parts)
    provenance = _provenance(work)
    if out.exists():  # and resume is asked for
        _same(read_provenance(out), provenance, out)
        if not parts.exists():
            return Made(*_read_back(out), {})
    parts.mkdir(exist_ok=True)
    with locked(parts):
        _claim(parts, provenance)
        failed = _compute(work, workers or _cores(), progress)
        made = _gather(work, provenance, failed)
        write_container(out, made.spectra, made.provenance)
    if not failed:
        shutil.rmtree(parts)
    return made


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _prepare(spec: GridSpec, parts: Path) -> _Work:
    """Find everything that is needed, before anything is computed."""
    stars = expand(spec)
    atmospheres = open_atmospheres(Path(spec.atmospheres.folder))
    stars = inside(spec, stars, atmospheres)
    used = sorted({path for i in range(len(stars.star)) for path in _models(spec, stars.of(i), atmospheres)})
    for path in used:  # a truncated one is better found now than in the middle of the night
        read_mod(path)
    _all_there([name for name in spec.lines.files if not name.startswith(IN_DATA)])
    program = find_turbospectrum()
    lines = tuple(
        program.data / n.removeprefix(IN_DATA) if n.startswith(IN_DATA) else Path(n) for n in spec.lines.files
    )
    _all_there(lines)
    return _Work(spec, stars, atmospheres, tuple(used), program, lines, parts)


def _models(spec: GridSpec, labels: Mapping[str, float], atmospheres: AtmosphereSet) -> list[Path]:
    """The files of the models around a star."""
    return [atmospheres.files[key] for key in corners(atmospheres, physical(spec, labels)) or ()]


def _all_there(files: Sequence[str | Path]) -> None:
    """Refuse line lists that are not there."""
    missing = [str(path) for path in files if not Path(path).is_file()]
    if missing:
        raise HbcalError(f"{len(missing)} line list(s) of the grid do not exist: {some(missing)}; check lines.files.")


def _provenance(work: _Work) -> dict[str, Any]:
    """Everything that decides the spectra; two runs with the same of it give the same."""
    spec, stars = work.spec, work.stars
    told = [physical(spec, stars.of(i)) for i in range(len(stars.star))]
    declared = dataclasses.asdict(spec)
    for place in ("axes", "stars", "table", "draw"):  # what they declare is listed in full below
        declared.pop(place)
    declared["lines"].pop("files")
    declared["atmospheres"].pop("folder")
    try:
        made_by = version("hbcal-surveys")
    except PackageNotFoundError:
        made_by = "unknown"
    return {
        "made_by": {"hbcal": made_by, "program": "Turbospectrum", **work.program.versions},
        "program": {"sha256": work.program.digest},
        "line_lists": [{"name": path.name, "sha256": digest([path])} for path in work.lines],
        "atmospheres": {
            "n_models": len(work.used), "sha256": digest(work.used), "axes": list(work.atmospheres.axes)
        },
        "declared": declared,
        "stars": {
            "star": list(stars.star), "label_names": list(stars.label_names), "labels": stars.labels.tolist(),
            **{name: [star[name] for star in told] for name in META},
        },
        "wave": "Angstrom, air",
        "flux": "over the continuum, LTE",
    }  # fmt: skip


def _same(before: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Refuse to go on with what another grid, program or list of lines has made."""
    differs = [
        name for name in now if name != "made_by" and identity({"x": before.get(name)}) != identity({"x": now[name]})
    ]
    if differs:
        raise HbcalError(
            f"{where} stems from another grid: {some(differs, 9)} differ; choose another --out, or undo the change."
        )


def _claim(parts: Path, provenance: dict[str, Any]) -> None:
    """Write down what the parts are of, or check it, and clear away what a killed run was working on."""
    path = parts / "grid.json"
    if path.exists():
        _same(json.loads(path.read_text(encoding="utf-8")), provenance, parts)
    else:
        write_text(path, json.dumps(provenance))
    for left in (*parts.glob("work*"), *parts.glob("*.part")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _part(work: _Work, i: int) -> Path:
    return work.parts / f"{i:07d}.npz"


def _flux(path: Path) -> np.ndarray | None:
    """What a finished part holds; None where there is none, or a disk has spoilt it."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return part["flux"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _compute(work: _Work, workers: int, progress: Progress | None) -> dict[str, str]:
    """Compute what is not there yet; why each star that failed did."""
    n_star, begun = len(work.stars.star), time.monotonic()
    todo = [i for i in range(n_star) if _flux(_part(work, i)) is None]
    failed: dict[str, str] = {}
    done = n_star - len(todo)
    if progress and done:
        progress(f"synthesis: {done}/{n_star} spectra are there already")
    with ThreadPoolExecutor(workers) as threads:
        running: dict[Future[None], int] = {threads.submit(_one, work, i): i for i in todo}
        try:
            for future in as_completed(running):
                error = future.exception()
                if isinstance(error, HbcalError):
                    failed[work.stars.star[running[future]]] = str(error)
                elif error is not None:
                    raise error
                done += error is None
                if progress:
                    told = f", {len(failed)} failed" if failed else ""
                    progress(f"synthesis: {done}/{n_star} spectra{told}, {time.monotonic() - begun:.0f} s")
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupted run does not go on behind the user's back
    return {name: failed[name] for name in work.stars.star if name in failed}


def _one(work: _Work, i: int) -> None:
    """Compute one spectrum, and write it when it is whole."""
    spec, labels = work.spec, work.stars.of(i)
    star = physical(spec, labels)
    model = interpolate(work.atmospheres, star)
    single = {SINGLE[name]: value for name, value in labels.items() if name in SINGLE}
    abundances = mixture(solar_scale(model.abundances, model.m_h, model.alpha_m), star["m_h"], star["alpha_m"], single)
    low, high, step = spec.window.grid
    n_pix = n_pixels(spec.window.grid)
    sigma = high / (2.0 * spec.window.resolution) if spec.window.resolution else 0.0
    margin = int(np.ceil(max(spec.window.margin, 5.0 * sigma) / step))  # so that the kernel is whole at the ends
    window = (low - margin * step, high + margin * step, step)
    folder = Path(tempfile.mkdtemp(prefix="work", dir=work.parts))
    try:
        wave, flux = synthesize(
            work.program, model, abundances, star["vmicro"], window, work.lines, folder,
            geometry=spec.atmospheres.geometry, isotopes=spec.lines.isotopes,
        )  # fmt: skip
        flux = broaden(wave, flux, spec.window.resolution)[margin : margin + n_pix]
        write_npz(_part(work, i), {"flux": flux})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _gather(work: _Work, provenance: dict[str, Any], failed: dict[str, str]) -> Made:
    """Put the parts together, in the order of the stars."""
    rows = [i for i, name in enumerate(work.stars.star) if name not in failed]
    if not rows:
        name, why = next(iter(failed.items()))
        raise HbcalError(f"All {len(failed)} star(s) failed; {name}: {why}")
    low, _, step = work.spec.window.grid
    stars = work.stars.keep(rows)
    fluxes = np.stack([flux for i in rows if (flux := _flux(_part(work, i))) is not None])
    spectra = Spectra(
        wave=low + step * np.arange(fluxes.shape[1]),
        flux=fluxes,
        flux_err=np.full_like(fluxes, ROUNDING),
        star=np.array(stars.star),
        labels=stars.labels,
        labels_err=np.zeros_like(stars.labels),
        label_names=stars.label_names,
        meta=np.array([[provenance["stars"][name][i] for name in META] for i in rows]),
        meta_names=META,
    )
    return Made(spectra, provenance | {"failed": failed}, failed)


def _read_back(out: Path) -> tuple[Spectra, dict[str, Any]]:
    """What is there already."""
    from hbcal.spectra.container import read_spectra

    return read_spectra([out], labels=True), read_provenance(out)
