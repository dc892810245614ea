"""One chain of NUTS, chunk by chunk: state in, draws and state out, every chunk on disk before the next begins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import hmc

from hbcal.folder import write_npz
from hbcal.infer.moves import moving_kernel
from hbcal.infer.potential import Potential
from hbcal.infer.task import Settings, Task

STAGES = 25  # in which data grow
STATS = ("diverging", "energy", "accept_prob", "num_steps", "step_size")


class Sampler:
    """The compiled pieces a chain is made of; one per process, shared by its chains.

    NUTS moves in u, z = start + L u with L L^T the task's `inverse_mass` (0.01 where it has none): NUTS shrinks its own
    estimate of the metric towards 1e-3, a variance a floor known to 0.00003 dex would never recover from.

    Args:
        task: program and data.
        settings: NUTS settings.
    """

    def __init__(self, task: Task, settings: Settings):
        self.task, self.settings = task, settings
        self._args = jax.device_put(task.args)
        potential = Potential(task)
        starts = [potential.start(self._args, each) for each in (task.starts or (task.start,))]
        self._starts = [ravel_pytree(start)[0] for start in starts]
        centre, unravel = ravel_pytree(starts[0])
        self._n = centre.size
        if task.moves is not None:
            place, (first, step) = unravel, moving_kernel(potential, settings, unravel)
        else:
            place, first, step = self._unmoved(potential, centre, unravel)

        def steps(state, n, thin, args):
            def once(_, carry):
                state, diverging, leaps = carry
                state = step(state, args)
                return state, diverging | state.diverging, leaps + state.num_steps

            def body(i, carry):
                state, kept = carry
                state, diverging, leaps = jax.lax.fori_loop(0, thin, once, (state, False, 0))
                stats = (diverging, state.energy, state.accept_prob, leaps, state.adapt_state.step_size)
                new = (state.z, dict(zip(STATS, stats, strict=True)))
                return state, jax.tree.map(lambda store, value: store.at[i].set(value), kept, new)

            stats0 = (False, 0.0, 0.0, 0, 0.0)
            kept = (state.z, {k: jnp.asarray(v) for k, v in zip(STATS, stats0, strict=True)})
            empty = jax.tree.map(lambda x: jnp.zeros((settings.chunk, *x.shape), x.dtype), kept)
            return jax.lax.fori_loop(0, n, body, (state, empty))

        def finish(z, index, key, args):
            def one(item):
                position, i = item
                sites = potential.sites(place(position), args)
                if task.complete is not None:
                    drawn = task.complete(jax.random.fold_in(key, i), sites, *args, **dict(task.kwargs))
                    sites = {**sites, **drawn}
                return sites

            return jax.lax.map(one, (z, index))

        self._compile(jax.jit(first), jax.jit(steps), jax.jit(finish))

    def _unmoved(self, potential: Potential, centre: jax.Array, unravel: Any) -> tuple[Any, Any, Any]:
        """Where NUTS' coordinates are among the unconstrained ones; first state and step of NUTS alone."""
        task, settings = self.task, self.settings
        spread = 0.1 * jnp.eye(centre.size) if task.inverse_mass is None else jnp.linalg.cholesky(task.inverse_mass)
        if not bool(jnp.isfinite(spread).all()):
            raise ValueError("the task's inverse_mass is not positive definite.")

        def place(u):
            return unravel(centre + spread @ u)

        # a metric from the start saves most of the warmup's long trajectories; the rest are cut at half the depth
        depth = (max(settings.max_tree_depth - 2, 1), settings.max_tree_depth)
        init, step = hmc(potential_fn_gen=lambda *args: lambda u: potential.energy(place(u), args), algo="NUTS")

        # a full covariance takes several steps per number to learn; with fewer, the task's own serves better
        dense = 0 < 10 * centre.size <= settings.warmup

        def first(key, u, args):
            return init(
                u, num_warmup=settings.warmup, dense_mass=dense, rng_key=key, model_args=args,
                target_accept_prob=settings.target_accept, max_tree_depth=depth,
            )  # fmt: skip

        return place, first, step

    def _compile(self, first: Any, steps: Any, finish: Any) -> None:
        """Trace one after the other (NumPyro keeps its handlers in one list), compile side by side."""
        key, index = jax.random.PRNGKey(0), jnp.arange(self.settings.chunk)
        state = jax.eval_shape(first, key, jnp.zeros(self._n), self._args)
        z = jax.eval_shape(steps, state, 0, 1, self._args)[1][0]
        traced = [
            first.lower(key, jnp.zeros(self._n), self._args),
            steps.lower(state, 0, 1, self._args),
            finish.lower(z, index, key, self._args),
        ]
        with ThreadPoolExecutor(len(traced)) as threads:
            self._first, self._steps, self._finish = threads.map(lambda each: each.compile(), traced)

    def first(self, chain: int) -> tuple[Any, jax.Array]:
        """State before the first step of a chain, and the key of what is drawn exactly."""
        key = jax.random.fold_in(jax.random.PRNGKey(self.settings.seed), chain)
        key_jitter, key_chain, key_exact = jax.random.split(key, 3)
        start = self.settings.jitter * jax.random.normal(key_jitter, (self._n,))
        if self.task.moves is not None:
            start = self._starts[chain % len(self._starts)]
        state = self._first(key_chain, start, self._args)
        if self.task.moves is not None and not bool(jnp.isfinite(state.potential_energy)):
            raise ValueError("the start has no density, or `noise` lacks a site that the task's `scale` looks at.")
        return state, key_exact

    def _stage(self, chain: int, done: int) -> tuple[Any, int]:
        """What the next steps of a chain are given, and the step at which that changes."""
        settings, moves = self.settings, self.task.moves
        if done >= settings.warmup:
            return self._args, settings.warmup + settings.draws
        half = settings.warmup // 2
        if moves is None or moves.grow is None or done >= half:
            return self._args, settings.warmup
        part = moves.grow(chain, done / half, *self.task.args)
        return jax.device_put(part), min(done + -(-half // STAGES), half)

    def run(self, chain: int, folder: Path) -> Iterator[int]:
        """Sample a chain, or what is left of it, into ``folder``; yields the number of steps done.

        A file is complete or absent: it is written beside and renamed. The state in each file makes what follows
        identical to the bit, whether or not the process died in between.
        """
        settings = self.settings
        total = settings.warmup + settings.draws
        state, key_exact = self.first(chain)
        leaves, tree = jax.tree.flatten(state)
        done = 0
        for path in chunk_files(folder, chain):
            try:
                with path.open("rb") as handle, np.load(handle) as saved:
                    whole = {name: saved[name] for name in saved.files}  # reading an array checks its checksum
                start, stop = int(whole["start"]), int(whole["stop"])
                last = [whole[f"state{i}"] for i in range(len(leaves))]
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                break  # an unreadable file is as good as none: it is sampled, and written, again
            if start != done:
                break  # so is one whose predecessor is gone
            done = stop
            state = jax.tree.unflatten(tree, [jnp.asarray(x) for x in last])
        while done < total:
            yield done
            args, edge = self._stage(chain, done)
            n = min(settings.chunk, edge - done)
            thin = settings.thin if done >= settings.warmup else 1
            state, (z, stats) = self._steps(state, n, thin, args)
            arrays: dict[str, Any] = {f"state{i}": x for i, x in enumerate(jax.tree.leaves(state))}
            arrays["start"], arrays["stop"] = done, done + n
            if done >= settings.warmup:
                index = jnp.arange(settings.chunk) + done
                sites = self._finish(z, index, key_exact, self._args)
                arrays |= {f"site:{k}": v[:n] for k, v in sites.items()}
                arrays |= {f"stat:{k}": v[:n] for k, v in stats.items()}
            write_npz(folder / f"chain{chain}_{done:07d}.npz", jax.device_get(arrays))
            done += n
        yield done


def chunk_files(folder: Path, chain: int) -> list[Path]:
    """The chunk files of a chain, in order.

    Args:
        folder: where chains are written.
        chain: its number.

    Returns:
        Paths, oldest first.

    Errors:
        None: a missing folder has no files.

    Example:
        >>> chunk_files(Path("nowhere"), 0)
        []
    """
    return sorted(folder.glob(f"chain{chain}_*.npz"))
