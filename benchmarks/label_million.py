"""Label many spectra: whether memory stays where it is as they grow in number, how fast it goes, the size of labels.

    python benchmarks/label_million.py EMULATOR [--n 1000000] [--few N/10] [--draws] [--folder FOLDER] [--out FILE.json]

EMULATOR is trained on Gaia XP spectra, as `xp_labels.py --keep FOLDER` leaves it there. The five shards of real
spectra in HBCAL_TEST_DATA are drawn from with replacement, with noise of their own errors added, smooth as that of XP
spectra is (some 110 coefficients for 343 pixels), and written to HDF5 in pieces; then few of them and all N are
labelled (``hbcal label --fast``), each in a process of its own whose peak memory is read when it ends. Exit status 1 if
that of N is more than a tenth above that of the few.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from hbcal.labelling import label_files
from hbcal.spectra.container import Spectra, write_spectra
from hbcal.spectra.formats import read_any

PIECE = 2000
SMOOTH = 1.5  # pixels, sd
MOST = 1.1  # peak of N over that of the few


def resampled(n: int) -> Iterator[Spectra]:
    """Real spectra with new noise and new names, without labels."""
    shards = sorted((Path(os.environ["HBCAL_TEST_DATA"]) / "spectra").glob("gaia_xp_apogee_?.npz"))
    known, rng = read_any(shards), np.random.default_rng(0)
    for first in range(0, n, PIECE):
        rows = rng.integers(len(known.star), size=min(PIECE, n - first))
        flux, err = known.flux[rows], known.flux_err[rows]
        star = np.array([f"{10**18 + first + i}" for i in range(len(rows))])  # as long as Gaia's
        nothing = np.empty((len(rows), 0))
        noise = gaussian_filter1d(rng.normal(size=flux.shape), SMOOTH, axis=1)
        twice = np.sqrt(2.0) * err  # theirs, and as much again
        yield Spectra(known.wave, flux + err * noise / noise.std(), twice, star, nothing, nothing, ())


def room(folder: Path, n: int, n_pix: int, n_draw: int) -> None:
    """Refuse what the disk cannot hold: the spectra, the labels, and the labels again in pieces."""
    wanted = n * (2 * 8 * n_pix + 2 * 8 * (40 + 5 * n_draw)) * 1.2
    free = shutil.disk_usage(folder).free
    if wanted > free:
        sys.exit(
            f"{folder} has {free / 1e9:.1f} GB free, and {n} spectra need {wanted / 1e9:.1f}: give --folder or --n."
        )


def label(emulator: Path, spectra: Path, out: Path, draws: bool) -> dict[str, Any]:
    """One labelling, in a process of its own."""
    command = [sys.executable, __file__, str(emulator), "--child", str(spectra), str(out), *["--draws"] * draws]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1]) | {"labels [MB]": out.stat().st_size / 1e6}


def child(emulator: Path, spectra: Path, out: Path, draws: bool) -> None:
    begun = time.time()
    written = label_files(emulator, [spectra], out, fast=True, keep_draws=draws)
    seconds = time.time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(json.dumps({
        "n": written.n_star, "seconds": seconds, "per second": written.n_star / seconds, "peak [MiB]": peak,
        "flagged": written.n_flagged,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emulator", type=Path)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, help="the number compared with; a tenth of N by default, 4,000 at least")
    parser.add_argument("--draws", action="store_true", help="keep the draws, 96 of each star")
    parser.add_argument("--folder", type=Path, help="where there is room; a temporary one by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, nargs=2, metavar=("SPECTRA", "LABELS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.emulator, *options.child, options.draws)
        return
    result: dict[str, Any] = {}
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        home = Path(folder)
        room(home, options.n, 343, 96 if options.draws else 0)
        few = options.few or max(options.n // 10, 4000)  # two pieces: the first of them has all there is to compile
        for name, n in (("few", few), ("N", options.n)):
            path = home / f"{n}.h5"
            write_spectra(resampled(n), path)
            size = path.stat().st_size / 1e6
            result[name] = {"spectra [MB]": size} | label(options.emulator, path, home / f"{n}.nc", options.draws)
            print(name, json.dumps(result[name], indent=1), flush=True)
            path.unlink()
    grown = result["N"]["peak [MiB]"] / result["few"]["peak [MiB]"]
    result["peak of N / that of few"] = grown
    print(f"peak of N / that of few: {grown:.3f}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))
    sys.exit(grown > MOST)


if __name__ == "__main__":
    main()
