"""What a crash or an orphaned worker can leave in a run's folder, and what resuming makes of it: the same draws."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from hbcal.infer.chain import Sampler, chunk_files
from hbcal.infer.sample import gather
from hbcal.infer.task import Settings, Task

SETTINGS = Settings(chains=2, warmup=60, draws=240, chunk=10, seed=3)


def program(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(slope.sum(), 0.1 + scale).expand([40]).to_event(1), obs=y)


@pytest.fixture(scope="module")
def sampler():
    return Sampler(Task(program, (np.linspace(-1.0, 2.0, 40),)), SETTINGS)


@pytest.fixture(scope="module")
def whole(sampler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(sampler, folder)


def run(sampler, folder):
    for chain in range(SETTINGS.chains):
        assert list(sampler.run(chain, folder))[-1] == 300
    return gather(folder, SETTINGS)


def copied(whole, to, *n_chunks):
    """The first chunks of each chain, as a kill would leave them."""
    for chain, n in enumerate(n_chunks):
        for path in chunk_files(whole[0], chain)[:n]:
            (to / path.name).write_bytes(path.read_bytes())
    return to


def assert_same(found, whole):
    for one, other in zip(found, whole[1], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("left", [(0, 0), (3, 1), (6, 5), (17, 29), (30, 30)], ids=str)
def test_from_any_chunk(sampler, whole, left, tmp_path):
    """In the warmup, at its end, among the draws, with nothing left to do."""
    assert_same(run(sampler, copied(whole, tmp_path, *left)), whole)


DAMAGES = {
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "garbage": lambda raw: b"not an archive",
    "zeros after a crash": lambda raw: raw[:300] + bytes(len(raw) - 300),
}


@pytest.mark.parametrize("which", [-1, 8, 2], ids=["last", "among the draws", "in the warmup"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_chunk_is_sampled_again(sampler, whole, damage, which, tmp_path):
    path = chunk_files(copied(whole, tmp_path, 20, 20), 1)[which]
    path.write_bytes(damage(path.read_bytes()))
    assert_same(run(sampler, tmp_path), whole)


@pytest.mark.parametrize("which", [0, 9], ids=["first", "middle"])
def test_a_lost_chunk_is_sampled_again(sampler, whole, which, tmp_path):
    chunk_files(copied(whole, tmp_path, 20, 20), 0)[which].unlink()
    assert_same(run(sampler, tmp_path), whole)


def test_an_orphan_that_still_writes_does_no_harm(sampler, whole, tmp_path):
    """Two processes at the same chain: each chunk is written twice, a half-written one lies about."""
    copied(whole, tmp_path, 12, 12)
    (tmp_path / "chain0_0000120.npz.77.part").write_bytes(b"PK")
    orphan, resumed = sampler.run(0, tmp_path), sampler.run(0, tmp_path)
    for _ in range(4):
        next(orphan), next(resumed)
    orphan.close()
    assert_same(run(sampler, tmp_path), whole)
