"""Sample a task: start the workers, show progress, gather the draws."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError
from hbcal.infer.task import Settings, Task
from hbcal.infer.worker import COMPILED

Progress = Callable[[str], None]


def sample(
    task: Task, settings: Settings, folder: Path, *, progress: Progress | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw from the posterior of a program, resuming whatever the folder already holds.

    Args:
        task: program and data.
        settings: NUTS settings.
        folder: where chunks are kept; an existing one must stem from the same task and settings.
        progress: called with one line of text now and then.

    Returns:
        Draws per site and sampler statistics per name, each (chain, draw, ...).

    Errors:
        HbcalError when a worker fails, with the last line it wrote.

    Example:
        >>> import numpyro, tempfile
        >>> import numpyro.distributions as dist
        >>> def program():
        ...     numpyro.sample("x", dist.Normal(3.0, 1.0).expand([2]).to_event(1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sites, stats = sample(Task(program), Settings(2, 50, 100, workers=0), Path(folder))
        >>> sites["x"].shape, stats["diverging"].shape
        ((2, 100, 2), (2, 100))
    """
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    n_workers = settings.workers if settings.workers is not None else min(cores, settings.chains)
    if settings.platform != "cpu":
        n_workers = 1  # one device: its chains take turns
    if n_workers == 0:
        _run_here(task, settings, folder, min(cores, settings.chains), progress)
    else:
        _run_workers(task, settings, folder, n_workers, progress)
    return gather(folder, settings)


def _run_here(task: Task, settings: Settings, folder: Path, n_threads: int, progress: Progress | None) -> None:
    from hbcal.infer.chain import Sampler

    sampler = Sampler(task, settings)
    stop, begun, done = threading.Event(), time.monotonic(), [0] * settings.chains
    whole = settings.chains * (settings.warmup + settings.draws)

    def run(chain: int) -> None:
        for n_step in sampler.run(chain, folder):
            done[chain] = n_step
            if stop.is_set():
                return
            if progress:
                progress(_progress(min(sum(done), whole), settings, begun))

    with ThreadPoolExecutor(max(n_threads, 1)) as threads:
        try:
            list(threads.map(run, range(settings.chains)))
        finally:
            stop.set()  # an interrupted run does not sample on behind the user's back


def _run_workers(task: Task, settings: Settings, folder: Path, n_workers: int, progress: Progress | None) -> None:
    (folder / COMPILED).unlink(missing_ok=True)  # of a run that was interrupted
    (folder / "task.pkl").write_bytes(pickle.dumps((task, settings)))
    # compiled once: other workers, and chains that are resumed or go on for longer, begin at once
    kept = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    environment = dict(kept | os.environ, JAX_PLATFORMS="cuda" if settings.platform == "gpu" else settings.platform)
    environment["JAX_TRACEBACK_FILTERING"] = "off"  # else the last line a failing worker writes is about tracebacks
    if settings.platform == "cpu":
        environment |= {"PJRT_NPROC": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hbcal.infer.worker", str(folder)]
    logs = [folder / f"worker{i}.log" for i in range(n_workers)]
    workers = []
    try:
        for i, log in enumerate(logs):
            with log.open("w") as handle:
                line = [*command, str(i), str(n_workers), str(os.getpid())]
                workers.append(subprocess.Popen(line, stdout=handle, stderr=handle, env=environment))
        _wait(workers, logs, settings, folder, progress)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
    for left in (COMPILED, "task.pkl"):
        (folder / left).unlink(missing_ok=True)


def _wait(workers: list[Any], logs: list[Path], settings: Settings, folder: Path, progress: Progress | None) -> None:
    total, shown, begun = settings.warmup + settings.draws, -1, time.monotonic()
    while True:
        codes = [worker.poll() for worker in workers]
        for code, log in zip(codes, logs, strict=True):
            if code:
                said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                raise HbcalError(
                    f"Sampling stopped: a worker ended with status {code}, saying {said[-1] if said else 'nothing'!r}; "
                    f"the draws so far are kept in {folder}, the whole message in {log.name}; use --resume to go on."
                )
        done = sum(min(_steps_on_disk(folder, c, settings), total) for c in range(settings.chains))
        if progress and done != shown:
            shown = done
            progress(_progress(done, settings, begun))
        if all(code == 0 for code in codes):
            return
        time.sleep(0.1)


def _progress(done: int, settings: Settings, begun: float) -> str:
    total = settings.chains * (settings.warmup + settings.draws)
    return f"sampling: {done}/{total} draws, warmup included, {time.monotonic() - begun:.0f} s"


def _steps_on_disk(folder: Path, chain: int, settings: Settings) -> int:
    last = max((p.name for p in folder.glob(f"chain{chain}_*.npz")), default=None)
    return 0 if last is None else int(last.split("_")[1].split(".")[0]) + settings.chunk


def gather(folder: Path, settings: Settings) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read the draws of all chains back.

    Args:
        folder: where the chunks are.
        settings: the run's.

    Returns:
        Draws per site and statistics per name, each (chain, draw, ...): the first, where chains went on for longer.

    Errors:
        HbcalError when chunks are missing.

    Example:
        >>> gather(Path("nowhere"), Settings(chains=1, draws=5))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Chain 0 has 0 of 5 draws in nowhere; use --resume to finish it.
    """
    kept: dict[str, list[np.ndarray]] = {}
    for chain in range(settings.chains):
        parts: dict[str, list[np.ndarray]] = {}
        for path in sorted(folder.glob(f"chain{chain}_*.npz")):
            if sum(map(len, parts.get("stat:energy", []))) >= settings.draws:
                break
            with np.load(path) as saved:
                for name in saved.files:
                    if name.startswith(("site:", "stat:")):
                        parts.setdefault(name, []).append(saved[name])
        n = sum(len(x) for x in parts.get("stat:energy", []))
        if n < settings.draws:
            raise HbcalError(f"Chain {chain} has {n} of {settings.draws} draws in {folder}; use --resume to finish it.")
        for name, values in parts.items():
            kept.setdefault(name, []).append(np.concatenate(values)[: settings.draws])
    stacked = {name: np.stack(values) for name, values in kept.items()}
    sites = {k[5:]: v for k, v in stacked.items() if k.startswith("site:")}
    return sites, {k[5:]: v for k, v in stacked.items() if k.startswith("stat:")}
