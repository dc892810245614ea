"""A process that runs some of a run's chains: ``python -m hbcal.infer.worker FOLDER WORKER N_WORKERS PARENT``.

One process and one core per worker: XLA's threads get into each other's way on matrices this small (four chains took
9.5 s in threads of one process, 2.6 s in two pinned processes).
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

COMPILED = "compiled.ready"  # in the folder of the chains, once the first worker has what all need


def main(folder: Path, worker: int, n_workers: int, parent: int) -> int:
    """Run chains worker, worker + n_workers, ...; stop when the parent is gone.

    The first one compiles. The others wait, and take what it left in JAX' persistent cache: compiling a mixture is 45 s
    and 1 GB that two processes side by side would each need.

    Args:
        folder: holds ``task.pkl``; chunk files go there too.
        worker: number of this worker.
        n_workers: how many there are.
        parent: process id of the run that started it.

    Returns:
        0.

    Errors:
        Whatever the program raises: the parent shows it.

    Example:
        >>> import tempfile
        >>> from hbcal.infer.task import Settings, Task
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "task.pkl").write_bytes(pickle.dumps((Task(dict), Settings(chains=0))))
        ...     main(Path(folder), 0, 1, os.getppid())  # no chain to run
        0
    """
    from hbcal.infer.chain import Sampler

    task, settings = pickle.loads((folder / "task.pkl").read_bytes())
    while worker and not (folder / COMPILED).exists():
        if os.getppid() != parent:
            return 0
        time.sleep(0.05)
    sampler = Sampler(task, settings)
    (folder / COMPILED).touch()
    for chain in range(worker, settings.chains, n_workers):
        for _ in sampler.run(chain, folder):
            if os.getppid() != parent:
                return 0  # an orphan stops: whoever resumes the run must not meet it
    return 0


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(int(sys.argv[2]) + int(sys.argv[4])) % len(cores)]})
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5])))
