"""Label files of any length: piece by piece, each kept until all are done, so that a kill costs one piece."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

import hbcal
from hbcal._errors import HbcalError, some
from hbcal.catalogue.label_tables import KnownLabels, read_known, read_prior
from hbcal.emulator.base import Emulator
from hbcal.emulator.files import MODEL, about_emulator, load_emulator
from hbcal.emulator.nuisances import Nuisances, with_nuisances
from hbcal.folder import check_file, digest, locked, put, write_text
from hbcal.label import BATCH, NONE, as_trained, label_spectra
from hbcal.spectra.container import Spectra, agreeing, join
from hbcal.spectra.formats import iter_any

PIECE = 4 * BATCH  # spectra between two files on disk
MARK = "mark.json"


@dataclass(frozen=True)
class Asked:
    """Of `hbcal.label.label_spectra`, whose names they have."""

    fast: bool
    keep_draws: bool
    nuisances: Nuisances
    prior: np.ndarray | None
    known: KnownLabels | None


@dataclass(frozen=True)
class Written:
    """What is said of a file of labels without reading it again.

    Attributes:
        n_star: the number of spectra.
        n_flagged: those with a reason not to trust their labels.
        reasons: how many have each, such as ``12 misfit``, the most frequent first.
    """

    n_star: int
    n_flagged: int
    reasons: tuple[str, ...]


def label_files(
    emulator: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    fast: bool = False,
    seed: int = 0,
    keep_draws: bool = False,
    nuisances: Nuisances = NONE,
    prior: str | Path | None = None,
    known: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Written:
    """Label the spectra of files, in their order, into one file of the label schema.

    One piece is in memory at a time, and of the others the stars' ids: 10^6 spectra take little more than 10^4.

    Args:
        emulator: its folder.
        files: of the plain container or any survey's format that is known; the emulator's wavelengths are among theirs.
        out: an ``.nc``; complete or absent. Beside it ``.<name>.pieces`` holds what is done until all is.
        fast, seed, keep_draws, nuisances: of `hbcal.label.label_spectra`.
        prior: table of labels of a sample of the population the spectra come from, see `read_prior`.
        known: table of measurements of single stars' labels besides their spectra, see `read_known`.
        resume: go on with a labelling that was interrupted; the result is the same to the bit.
        overwrite: whether an existing `out` may be replaced.
        progress: called with lines of text.

    Returns:
        What was written, counted.

    Errors:
        HbcalError for anything wrong with emulator, spectra, tables or `out`, or where no star of `known` has a
            spectrum; a star that appears twice is told where it does.

    Example:
        >>> import tempfile
        >>> from hbcal.emulator.files import save_emulator
        >>> from hbcal.spectra.container import write_spectra
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     home = Path(folder)
        ...     save_emulator(tiny_emulator(), home / "emulator", {})
        ...     write_spectra(tiny_spectra(), home / "spectra.npz")
        ...     label_files(home / "emulator", [home / "spectra.npz"], home / "labels.nc", fast=True).n_star
        400
        400
    """
    out, paths = Path(out), [Path(file) for file in files]
    pieces = out.with_name(f".{out.name}.pieces")
    # a labelling that was killed between the last two steps left both: they are taken once more
    check_file(out, [".nc"], overwrite=overwrite or (resume and (pieces / MARK).is_file()))
    trained, about = load_emulator(Path(emulator)), about_emulator(Path(emulator))
    with_nuisances(trained, nuisances)  # refused before anything is written
    labels_of = trained.known.label_names
    asked = Asked(
        fast, keep_draws, nuisances, read_prior(Path(prior), labels_of) if prior is not None else None,
        read_known(Path(known), labels_of) if known is not None else None,
    )  # fmt: skip
    narrow = about.get("failures", [])
    for text in narrow:
        progress(f"warning: the emulator failed its own test, and its labels are to be mistrusted: {text}")
    mark = {
        "hbcal": hbcal.__version__, "emulator": _state(Path(emulator) / MODEL),
        "spectra": [_state(file)[0] for file in paths], "fast": fast, "seed": seed, "keep_draws": keep_draws,
        "nuisances": asdict(nuisances), "prior": _state(Path(prior)) if prior is not None else None,
        "known": _state(Path(known)) if known is not None else None,
        "basis": _state(Path(nuisances.basis)) if nuisances.basis is not None else None,
    }  # fmt: skip
    spectra_of = _pieces(paths)
    first = next(spectra_of)
    as_trained(trained.known, first.take(slice(1)))  # refused before anything is written
    n_known = _count_known(asked.known, paths, str(known))
    pieces.mkdir(exist_ok=True)
    with locked(pieces):
        begun = _begin(pieces, mark, resume=resume, overwrite=overwrite)
        n_done, done = 0, []
        for at, spectra in enumerate(chain([first], spectra_of)):
            n_done += len(spectra.star)
            done.append(pieces / f"{at:06d}.nc")
            of = _digest(spectra)  # a file that was mended, somewhere, keeps the pieces that are as they were
            if _made_of(done[-1]) != of:
                _write(_labelled(trained, spectra, (seed, at), asked).assign_attrs(spectra_sha256=of), done[-1])
            progress(f"labelling: {n_done} spectra")
        attrs = {
            "emulator": str(emulator), "emulator_sha256": about["sha256"], "emulator_failures": "; ".join(narrow),
            "seed": seed, "begun": begun, "spectra": ", ".join(str(file) for file in files),
            "prior": str(prior or "training stars"),
            "known": f"{known}: {n_known} spectra" if known is not None else "",
            "nuisances": json.dumps(asdict(nuisances)) if nuisances.some else "",
        }  # fmt: skip
        written = _join(done, attrs, out)
        _clear(pieces)
    with suppress(OSError):  # who has come since finds it empty
        pieces.rmdir()
    return written


def _pieces(files: Sequence[Path]) -> Iterator[Spectra]:
    """Equally long pieces, whatever the files are cut into."""
    held: list[Spectra] = []
    for part in agreeing((name, _unlabelled(part)) for name, part in iter_any(files)):
        held.append(part)
        while sum(len(each.star) for each in held) >= PIECE:
            whole = join(held)
            yield whole.take(slice(PIECE))
            held = [whole.take(slice(PIECE, None))]
    if held and (rest := join(held)).star.size:
        yield rest


def _unlabelled(spectra: Spectra) -> Spectra:
    """What some files know of their stars, and others do not, is not asked."""
    return replace(spectra, labels=spectra.labels[:, :0], labels_err=spectra.labels_err[:, :0], label_names=())


def _labelled(emulator: Emulator, spectra: Spectra, seed: tuple[int, int], asked: Asked) -> xr.Dataset:
    return label_spectra(emulator, spectra, seed=seed, **vars(asked))


def _count_known(known: KnownLabels | None, files: Sequence[Path], name: str) -> int:
    """How many of the spectra's stars have a measurement: one pass over the files, cheap beside labelling them."""
    if known is None:
        return 0
    there = set(known.star[np.isfinite(known.value + known.err).any(axis=1)].tolist())
    n = sum(str(star) in there for _, part in iter_any(files) for star in part.star.tolist())
    if not n:
        raise HbcalError(
            f"None of the {len(there)} star(s) of {Path(name).name}, such as {some(known.star, 1)}, has a spectrum: "
            "its column 'star' must hold the spectra's ids."
        )
    return n


def _state(path: Path) -> list[Any]:
    """Name, size and time of a file: cheap to compare, where a digest of 10^6 spectra is not."""
    if not path.exists():
        raise HbcalError(f"{path}: there is no such file.")
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _begin(pieces: Path, mark: dict[str, Any], *, resume: bool, overwrite: bool) -> str:
    """A fresh folder of pieces, or that of the same labelling; and when it was made."""
    stated = pieces / MARK
    if stated.is_file() and (resume or not overwrite):
        if not resume:
            raise HbcalError(f"A labelling has begun in {pieces}: go on with --resume, or start anew with --overwrite.")
        was = json.loads(stated.read_text())
        differ = [key for key in mark if was.get(key) != mark[key]]
        if differ:
            raise HbcalError(
                f"The labelling begun in {pieces} had another {' and '.join(differ)}: repeat it as it was, or start "
                "anew with --overwrite and without --resume."
            )
        return str(was["begun"])
    _clear(pieces)
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    write_text(stated, json.dumps(mark | {"begun": begun}))
    return begun


def _clear(pieces: Path) -> None:
    """Pieces first: what says what they are goes last."""
    for path in sorted(pieces.iterdir(), key=lambda path: path.name == MARK):
        if path.name != ".lock":
            path.unlink()


def _join(pieces: Sequence[Path], attrs: dict[str, Any], out: Path) -> Written:
    """One file of all pieces, complete or absent, with one of them in memory at a time."""
    beside = out.with_name(out.name + ".part")
    first = xr.load_dataset(pieces[0], engine="h5netcdf").assign_attrs(attrs)
    first.attrs.pop("spectra_sha256", None)  # of the piece
    chunks = {str(name): {"chunksizes": first[name].shape} for name in first.variables if "star" in first[name].dims}
    first.to_netcdf(beside, engine="h5netcdf", unlimited_dims=["star"], encoding=chunks)
    n, n_flagged, reasons = first.sizes["star"], int(first["flag"].sum()), _count(first)
    with h5netcdf.File(beside, "a") as whole:
        for path in pieces[1:]:
            with xr.open_dataset(path, engine="h5netcdf") as told, h5netcdf.File(path, "r") as piece:
                rows = slice(n, n + told.sizes["star"])
                whole.resize_dimension("star", rows.stop)
                for name, variable in piece.variables.items():  # as they are encoded
                    if "star" in variable.dimensions:
                        whole.variables[name][rows] = variable[...]
                n, n_flagged, reasons = rows.stop, n_flagged + int(told["flag"].sum()), reasons + _count(told)
    put(beside, out)
    return Written(n, n_flagged, tuple(_phrases(reasons)))


def _count(labels: xr.Dataset) -> Counter[str]:
    texts = labels["reason" if "reason" in labels else "flag"].to_numpy()  # `hbcal apply` has the words in flag
    return Counter(word for text in texts for word in str(text).split(", ") if word)


def _phrases(counted: Counter[str]) -> Iterator[str]:
    return (f"{n} {word}" for word, n in counted.most_common())


def _digest(spectra: Spectra) -> str:
    """Of what labels hang on."""
    arrays = (spectra.wave, spectra.flux, spectra.flux_err, spectra.meta, spectra.flux_corr)
    return digest(*arrays, words=[*spectra.star.tolist(), *spectra.meta_names])


def _made_of(piece: Path) -> str:
    """The digest of the spectra that a piece has the labels of; none of one that is not there, or torn."""
    try:
        with xr.open_dataset(piece, engine="h5netcdf") as told:
            return str(told.attrs.get("spectra_sha256", ""))
    except (OSError, ValueError, KeyError):
        return ""


def _write(labels: xr.Dataset, path: Path) -> None:
    """Complete or absent."""
    beside = path.with_name(path.name + ".part")
    labels.to_netcdf(beside, engine="h5netcdf")
    put(beside, path)


def iter_reasons(labels: xr.Dataset) -> Iterator[str]:
    """How many spectra carry each reason not to trust them.

    Args:
        labels: of the label schema.

    Returns:
        Phrases such as ``12 misfit``, the most frequent first.

    Errors:
        None.

    Example:
        >>> ds = xr.Dataset({"reason": ("star", ["", "misfit", "misfit, k_hat"])})
        >>> list(iter_reasons(ds))
        ['2 misfit', '1 k_hat']
    """
    return _phrases(_count(labels))
