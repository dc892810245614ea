"""One gradient of the mixture's log density: hbcal's kernel beside a library Cholesky of each star and component.

    python benchmarks/mixture_kernel.py [--n 3000] [--d 6] [--k 10] [--missing 0.2]

Printed are the median and least of 30 times in milliseconds, float64, and their ratio; and the largest difference
between the two gradients.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal.numerics.star_mixture import log_likelihood
from hbcal.numerics.stars import lower, pack_stars


def dense(value: Any, error: Any, seen: Any, log_weight: Any, mean: Any, covariance: Any) -> Any:
    def one(x: Any, s: Any, here: Any) -> Any:
        both = here[:, None] & here[None, :]
        root = jnp.linalg.cholesky(jnp.where(both[None], covariance + s[None], jnp.eye(len(x))[None]))
        off = jnp.where(here[None, :], x[None] - mean, 0.0)
        z = jax.scipy.linalg.solve_triangular(root, off[..., None], lower=True)[..., 0]
        log_det = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum(1)
        return jax.nn.logsumexp(log_weight - 0.5 * (z**2).sum(1) - log_det) - 0.5 * here.sum() * jnp.log(2 * jnp.pi)

    return jax.vmap(one)(value, error, seen).sum()


def clocked(f: Any, *args: Any) -> tuple[Any, np.ndarray]:
    found = jax.block_until_ready(f(*args))
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(1e3 * (time.perf_counter() - begun))
    return found, np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--d", type=int, default=6)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--missing", type=float, default=0.2)
    o = parser.parse_args()
    rng = np.random.default_rng(0)
    value = rng.normal(size=(o.n, o.d))
    value[rng.random(value.shape) < o.missing] = np.nan
    error = rng.uniform(0.1, 0.5, (o.n, o.d, 1)) * np.eye(o.d)
    root = rng.normal(size=(o.k, o.d, o.d))
    covariance = jnp.asarray(root @ root.swapaxes(1, 2) / o.d + np.eye(o.d))
    rest = (jnp.full(o.k, -jnp.log(o.k)), jnp.asarray(rng.normal(size=(o.k, o.d))), covariance)
    stars, plain = (
        jax.device_put(pack_stars(value, error)),
        (jnp.nan_to_num(value), jnp.asarray(error), np.isfinite(value)),
    )
    ours = jax.jit(jax.value_and_grad(lambda w, m, c: log_likelihood(stars, w, m, lower(c)), argnums=(0, 1, 2)))
    twin = jax.jit(jax.value_and_grad(lambda w, m, c: dense(*plain, w, m, c), argnums=(0, 1, 2)))
    found, fast = clocked(ours, *rest)
    wanted, slow = clocked(twin, *rest)
    both = lambda slope: slope + jnp.swapaxes(slope, 1, 2)  # noqa: E731  one entry stands for two in `lower`
    off = max(
        float(jnp.abs(found[1][0] - wanted[1][0]).max()), float(jnp.abs(found[1][1] - wanted[1][1]).max()),
        float(jnp.abs(both(found[1][2]) - both(wanted[1][2])).max()),
    )  # fmt: skip
    print(f"hbcal: median {np.median(fast):.1f} ms, least {fast.min():.1f}")
    print(f"library: median {np.median(slow):.1f} ms, least {slow.min():.1f}")
    print(f"ratio of medians {np.median(slow) / np.median(fast):.1f}; gradients differ by at most {off:.1e}")


if __name__ == "__main__":
    main()
