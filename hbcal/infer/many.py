"""One program, many data sets: NUTS for all of them side by side in one compiled call, with jumps between modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc

from hbcal._pytree import pytree
from hbcal._typing import Array, Float
from hbcal.infer.potential import Potential
from hbcal.infer.task import Task

WIDE, SHARE = 2.0, 0.1  # of the wide part of the jumps' proposal: its sd in units of the posterior's, and its share
LEARNT = 0.7  # share, in the rest of the proposal, of what the first round found


@dataclass(frozen=True)
class ManySettings:
    """Settings of posteriors of a few numbers of which weighted draws are at hand.

    Attributes:
        chains: of each data set.
        draws: of each chain, in `rounds` equal parts; one more such part comes first, finds step size and jumps, and is
            not kept.
        rounds: see `draws`.
        target_accept, max_tree_depth: of NUTS; chains in lockstep wait for the longest trajectory.
        jumps: proposed after each transition of NUTS.
    """

    chains: int = 4
    draws: int = 200
    rounds: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 2
    jumps: int = 4


@pytree
class Lumps:
    """What jumps propose: a narrow Gaussian around each of some points, and one wide Gaussian.

    Attributes:
        points: (n_point, d).
        log_share: (n_point,).
        width: sd of each, (n_point,).
    """

    points: Array
    log_share: Array
    width: Array

    def draw(self, key: Array) -> Array:
        """One point, (d,)."""
        key_which, key_wide, key_noise = jax.random.split(key, 3)
        noise = jax.random.normal(key_noise, self.points.shape[1:])
        which = jax.random.categorical(key_which, self.log_share)
        near = self.points[which] + self.width[which] * noise
        return jnp.where(jax.random.uniform(key_wide) < SHARE, WIDE * noise, near)

    def log_density(self, u: Array) -> Array:
        """ln q(u), up to a number."""
        d = self.points.shape[1]
        off = ((u[None, :] - self.points) ** 2).sum(1)
        near = jax.nn.logsumexp(self.log_share - 0.5 * off / self.width**2 - d * jnp.log(self.width))
        wide = -0.5 * (u**2).sum() / WIDE**2 - d * np.log(WIDE)
        return jnp.logaddexp(np.log(1.0 - SHARE) + near, np.log(SHARE) + wide)


def sample_many(
    task: Task, site: str, data: Any, draws: Float[Array, "n m d"], share: Float[Array, "n m"], key: Array,
    settings: ManySettings = ManySettings(),
) -> tuple[Array, Array]:  # fmt: skip
    """Draw a vector site of a program for every data set.

    NUTS moves in u, x = centre + root u, where the weighted draws have mean zero and covariance one. After each of its
    transitions come jumps: Metropolis' rule with a proposal that does not hang on where the chain is,

        q(u) = (1 - c) sum_i share_i N(u; u_i, h^2 I) + c N(u; 0, 4 I),   h = n_eff^(-1 / (d + 4)),

    so that chains cross between modes which NUTS alone would take for ever to. The points u_i are the weighted draws
    and, once there are, draws of the first round of all chains; from then on q stays as it is.

    Args:
        task: the program; its `args` are those before the data.
        site: the one sampled site, unconstrained, (d,).
        data: the program's last argument, with a leading axis.
        draws, share: of each data set, near its posterior; shares add up to one.
        key: of all chains.
        settings: `ManySettings`.

    Returns:
        Draws (n, chain, draw, d) and how many transitions of each chain diverged, (n, chain).

    Errors:
        None.

    Example:
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> def program(y):
        ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        ...     numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)
        >>> near, share = jnp.tile(jnp.linspace(-2.0, 3.0, 20)[:, None], (2, 1, 1)), jnp.full((2, 20), 0.05)
        >>> draws, _ = sample_many(Task(program), "x", jnp.array([0.0, 4.0]), near, share, jax.random.PRNGKey(0))
        >>> draws.shape, (jnp.abs(draws.mean((1, 2, 3)) - jnp.array([0.0, 2.0])) < 0.2).tolist()
        ((2, 4, 200, 1), [True, True])

    Source: Hoffman and Gelman 2014, JMLR 15, 1593; Tierney 1994, Annals of Statistics 22, 1701 (mixtures of kernels).
    """
    potential, n_part = Potential(task), settings.draws // settings.rounds

    def energy(u: Array, one: Any, at: Array, turn: Array) -> Array:
        return potential.energy({site: at + turn @ u}, (*task.args, one))

    init, step = hmc(potential_fn_gen=lambda *given: lambda u: energy(u, *given), algo="NUTS")

    def jump(key: Array, u: Array, here: Array, lumps: Lumps, given: Any) -> tuple[Array, Array]:
        key_new, key_take = jax.random.split(key)
        new = lumps.draw(key_new)
        there = energy(new, *given)
        gain = here - there + lumps.log_density(u) - lumps.log_density(new)
        take = jnp.log(jax.random.uniform(key_take)) < gain
        return jnp.where(take, new, u), jnp.where(take, there, here)

    def move(state: Any, lumps: Lumps, given: Any) -> Any:
        state = step(state, given)
        keys = jax.random.split(state.rng_key, settings.jumps + 1)
        at = state.z, state.potential_energy
        # a scan, so that the density is compiled once and not for every jump
        (u, _), _ = jax.lax.scan(lambda at, key: (jump(key, *at, lumps, given), None), at, keys[1:])
        here, slope = jax.value_and_grad(energy)(u, *given)
        return state._replace(z=u, potential_energy=here, z_grad=slope, rng_key=keys[0])

    def begin(key: Array, lumps: Lumps, given: Any) -> Any:
        key_start, key_chain = jax.random.split(key)
        return init(
            lumps.draw(key_start), num_warmup=n_part, adapt_mass_matrix=False, dense_mass=False, rng_key=key_chain,
            step_size=0.7, model_args=given, target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
        )  # fmt: skip

    def chains(key: Array, one: Any, draws: Array, share: Array) -> tuple[Array, Array]:
        m, d = draws.shape
        centre = share @ draws
        left = draws - centre[None, :]
        root = jnp.linalg.cholesky((share[:, None] * left).T @ left + 1e-10 * jnp.eye(d))
        points = jax.scipy.linalg.solve_triangular(root, left.T, lower=True).T
        given = (one, centre, root)
        width = (share**2).sum() ** (1.0 / (d + 4))
        lumps = Lumps(
            jnp.concatenate([points, points]), jnp.log(jnp.concatenate([(1.0 - LEARNT) * share, LEARNT * share])),
            jnp.full(2 * m, width),
        )  # fmt: skip
        states = jax.vmap(lambda key: begin(key, lumps, given))(jax.random.split(key, settings.chains))

        def part(carry: Any, at: Array) -> Any:
            states, lumps = carry

            def chain(state: Any) -> Any:
                def one(state: Any, _: Any) -> Any:
                    state = move(state, lumps, given)
                    return state, (state.z, state.diverging)

                return jax.lax.scan(one, state, None, length=n_part)

            states, (us, diverging) = jax.vmap(chain)(states)
            found = us.reshape(-1, d)
            found = found[np.linspace(0, len(found) - 1, m).astype(int)]
            learnt = Lumps(
                lumps.points.at[m:].set(found), lumps.log_share.at[m:].set(np.log(LEARNT / m)),
                lumps.width.at[m:].set(m ** (-1.0 / (d + 4))),
            )  # fmt: skip
            lumps = jax.tree.map(lambda new, old: jnp.where(at == 0, new, old), learnt, lumps)
            return (states, lumps), (us, diverging.sum(1))

        _, (us, diverging) = jax.lax.scan(part, (states, lumps), jnp.arange(settings.rounds + 1))
        us = jnp.moveaxis(us[1:], 0, 1).reshape(settings.chains, -1, d)
        return centre[None, None, :] + us @ root.T, diverging[1:].sum(0)

    return jax.vmap(chains)(jax.random.split(key, len(draws)), data, draws, share)
