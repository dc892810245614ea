"""A small task that any process can import: the test, the script that is killed, and the workers.

python kill_task.py FOLDER samples it with one worker.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from hbcal.infer.task import Settings, Task


def program(x, y=None):
    """A straight line with unknown scatter; its intercept is integrated out."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    scatter = numpyro.sample("scatter", dist.HalfNormal(1.0))
    covariance = scatter**2 * jnp.eye(x.shape[0]) + 1.0
    numpyro.sample("y", dist.MultivariateNormal(slope * x, covariance_matrix=covariance), obs=y)


def complete(key, sites, x, y):
    """Draw the intercept given all else."""
    precision = 1.0 + x.shape[0] / sites["scatter"] ** 2
    mean = (y - sites["slope"] * x).sum() / sites["scatter"] ** 2 / precision
    return {"intercept": mean + jax.random.normal(key) / jnp.sqrt(precision)}


def failing():
    """Fails where no worker could expect it."""
    raise RuntimeError("slope_was_never_given")


def settings(workers=1):
    return Settings(chains=2, warmup=150, draws=600, seed=3, chunk=25, workers=workers)


def task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    return Task(program, (x, 0.5 + 2.0 * x + 0.3 * rng.normal(size=12)), complete=complete, fold=("scatter",))


if __name__ == "__main__":
    import kill_task  # the workers must find the program under its own name, not as __main__

    from hbcal.infer.sample import sample

    sample(kill_task.task(), kill_task.settings(), Path(sys.argv[1]))
