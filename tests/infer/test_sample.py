"""A run may be killed at any moment: what is resumed is identical, to the bit, to what was never interrupted."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats

from hbcal import simulate
from hbcal._errors import HbcalError
from hbcal.infer import worker
from hbcal.infer.sample import gather, sample
from hbcal.infer.task import Settings, Task

HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds a process may take to compile, on a busy machine


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE:.0f} s"
        time.sleep(0.002)


def children(pid):
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_after(command, folder, n_files, environment=None):
    """Start a run, SIGKILL it once some chunk files are there; the workers it left behind."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(
            lambda: process.poll() is not None or len(list(folder.glob("chain*.npz"))) >= n_files, f"{n_files} chunks"
        )
        assert process.poll() is None, "the run ended before it could be killed"
        left_behind = children(process.pid)
        process.send_signal(signal.SIGKILL)
    return left_behind


def identical(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def kill_task():
    """The module of that name, importable here and in every process started from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        import kill_task

        yield kill_task
        sys.modules.pop("kill_task", None)


@pytest.fixture(scope="module")
def uninterrupted(kill_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "chains"
    return folder, *sample(kill_task.task(), kill_task.settings(), folder)


def test_draws_are_those_of_the_posterior(kill_task, uninterrupted):
    """Moments against sums over a fine grid; limits at 5 Monte Carlo standard errors."""
    _, sites, stats = uninterrupted
    assert sites["slope"].shape == sites["intercept"].shape == stats["energy"].shape == (2, 600)
    x, y = kill_task.task().args
    n = len(x)
    slope, scatter = np.meshgrid(np.linspace(0.5, 3.5, 401), np.linspace(0.02, 2.0, 401), indexing="ij")
    left = y - slope[:, :, None] * x
    precision = 1.0 + n / scatter**2  # of the intercept, whose prior is normal with unit sd
    middle = left.sum(2) / scatter**2 / precision
    log_p = -n * np.log(scatter) - 0.5 * (left**2).sum(2) / scatter**2 + 0.5 * precision * middle**2
    log_p -= 0.5 * (np.log(precision) + slope**2 + scatter**2)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    for name, grid, within in (("slope", slope, 0.0), ("scatter", scatter, 0.0), ("intercept", middle, 1 / precision)):
        mean = (p * grid).sum()
        sd = np.sqrt((p * ((grid - mean) ** 2 + within)).sum())
        draws = sites[name]
        ess = array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")
        assert ess > 100
        assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(ess), name
        spread = array_stats.ess((draws - mean) ** 2, chain_axis=0, draw_axis=1, method="mean")
        kurtosis = ((draws - mean) ** 4).mean() / sd**4
        assert abs(((draws - mean) ** 2).mean() / sd**2 - 1) < 5 * np.sqrt((kurtosis - 1) / spread), name


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_and_resumed_is_identical_to_the_bit(kill_task, uninterrupted, tmp_path, seed):
    folder, whole = tmp_path / "chains", len(list(uninterrupted[0].glob("chain*.npz")))
    n_files = int(np.random.default_rng(seed).integers(1, whole // 2))
    orphans = kill_after([sys.executable, str(HERE / "kill_task.py"), str(folder)], folder, n_files, dict(os.environ))
    assert len(orphans) == 1
    wait_until(lambda: not any(map(alive, orphans)), "the orphaned worker's end")
    assert n_files <= len(list(folder.glob("chain*.npz"))) < whole  # it stopped, and was not through
    with pytest.raises(HbcalError, match="--resume"):
        gather(folder, kill_task.settings())
    sites, stats = sample(kill_task.task(), kill_task.settings(), folder)
    identical(sites, uninterrupted[1])
    identical(stats, uninterrupted[2])


@pytest.mark.parametrize("keep", [100, -1], ids=lambda k: f"{k} bytes")
def test_a_cut_chunk_is_sampled_again(kill_task, uninterrupted, tmp_path, keep):
    folder = tmp_path / "chains"
    shutil.copytree(uninterrupted[0], folder)
    last = sorted(folder.glob("chain1_*.npz"))[-1]
    last.write_bytes(last.read_bytes()[:keep])
    sites, stats = sample(kill_task.task(), kill_task.settings(0), folder)
    identical(sites, uninterrupted[1])
    identical(stats, uninterrupted[2])


def test_a_flipped_byte_in_a_chunk_is_sampled_again(kill_task, uninterrupted, tmp_path):
    folder = tmp_path / "chains"
    shutil.copytree(uninterrupted[0], folder)
    victim = sorted(folder.glob("chain0_*.npz"))[-2]
    raw = bytearray(victim.read_bytes())
    with np.load(victim) as saved:
        at = raw.find(np.asarray(saved["site:slope"]).tobytes())
    raw[at + 3] ^= 255
    victim.write_bytes(raw)
    identical(sample(kill_task.task(), kill_task.settings(0), folder)[0], uninterrupted[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_workers_changes_no_bit(kill_task, uninterrupted, tmp_path, workers):
    sites, stats = sample(kill_task.task(), kill_task.settings(workers), tmp_path / "chains")
    identical(sites, uninterrupted[1])
    identical(stats, uninterrupted[2])


def test_what_was_compiled_is_found_again(kill_task, uninterrupted, tmp_path, monkeypatch):
    """By the other worker and by chains that go on, and not trusted where a kill cut it short."""
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # a folder that the user names is taken instead
    folder = tmp_path / "chains"
    sample(kill_task.task(), kill_task.settings(2), folder)
    programs = sorted(folder.glob("compiled/jit_steps-*-cache"))
    assert len(programs) == 1  # each worker has its own, or waited for the other's
    assert [path.name for path in folder.glob("compiled*")] == ["compiled"]
    for cut in (False, True):
        if cut:
            for program in programs:
                program.write_bytes(program.read_bytes()[:-20])
        sorted(folder.glob("chain1_*.npz"))[-1].unlink()
        identical(sample(kill_task.task(), kill_task.settings(2), folder)[0], uninterrupted[1])
        assert sorted(folder.glob("compiled/jit_steps-*-cache")) == programs


def test_other_workers_wait_for_what_the_first_compiles(tmp_path):
    (tmp_path / "task.pkl").write_bytes(pickle.dumps((Task(dict), Settings(chains=0))))
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(worker.main, tmp_path, 1, 2, os.getppid())
        with pytest.raises(TimeoutError):
            second.result(0.5)
        assert worker.main(tmp_path, 0, 2, os.getppid()) == second.result(60) == 0


def test_a_worker_that_fails_is_quoted(kill_task, tmp_path):
    with pytest.raises(HbcalError, match=r"a worker ended with status 1, saying '.*slope_was_never_given.*--resume"):
        sample(kill_task.Task(kill_task.failing), kill_task.settings(), tmp_path / "chains")


def test_another_seed_gives_other_draws(kill_task, uninterrupted, tmp_path):
    from dataclasses import replace

    sites, _ = sample(kill_task.task(), replace(kill_task.settings(0), seed=4), tmp_path / "chains")
    assert not np.isin(sites["slope"], uninterrupted[1]["slope"]).any()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for orphans in /proc")
def test_the_command_line_killed_and_resumed(tmp_path):
    def calibrate(out, *more):
        few = ("--chains", 2, "--warmup", 100, "--draws", 800, "--accept-failed", "--device", "cpu")
        words = ("calibrate", "textbook", "--data", tmp_path / "sky", "--out", tmp_path / out, *few, *more)
        return [sys.executable, "-m", "hbcal.cli", *map(str, words)]

    simulate("textbook", tmp_path / "sky", n_star=200)
    subprocess.run(calibrate("whole"), check=True, capture_output=True)
    orphans = kill_after(calibrate("killed"), tmp_path / "killed" / "chains", 2)
    wait_until(lambda: not any(map(alive, orphans)), "the orphaned workers' end")
    assert not (tmp_path / "killed" / "posterior.nc").exists()
    subprocess.run(calibrate("killed", "--resume"), check=True, capture_output=True)
    with (
        xr.open_datatree(tmp_path / "whole" / "posterior.nc", engine="h5netcdf") as whole,
        xr.open_datatree(tmp_path / "killed" / "posterior.nc", engine="h5netcdf") as killed,
    ):
        for group in ("posterior", "sample_stats"):
            xr.testing.assert_equal(whole[group].to_dataset(), killed[group].to_dataset())
