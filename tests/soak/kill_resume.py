"""A search that is killed again and again ends as one that never was.

    python tests/soak/kill_resume.py --kills 200 --seed 1

A child process searches and logs; after a random while it gets SIGKILL, and the next
child resumes. Now and then the log's last bytes are cut off as well, as a loss of power
would, and snapshots that know more than the log then has must be left aside. At the end
every node's numbers must equal those of an unbroken run. Values are a function of a
leaf's place in its tree, as those of a model with a seed would be.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import apportion as ap
from apportion.search import log as search_log

LOG = "events.log"
DONE = 0


@dataclass(frozen=True)
class Job:
    """A search: what it is made with, and how it is run."""

    options: dict[str, Any]
    batch: int = 24
    per_tree: int | None = None
    pause: float = 0.0005  # of an evaluation

    def search(self) -> ap.Search:
        return ap.Search(6, 2_000, num_simulations=150, seed=3, **self.options)

    def finish(self, search: ap.Search) -> ap.Search:
        while leaves := search.select(self.batch, per_tree=self.per_tree):
            time.sleep(self.pause)
            given = answers(leaves)
            failed = np.array(given.pop("failed"))
            if failed.any():
                search.fail(leaves[failed])
            # In parts and out of order, so that a process can die between them. In arrival
            # order that would be another search.
            kept = np.flatnonzero(~failed)
            whole = self.options.get("tell_order") == "arrival"
            for part in [kept] if whole else [kept[1::2], kept[::2]]:
                if len(part):
                    rows = {name: [column[i] for i in part] for name, column in given.items()}
                    search.expand(leaves[part], **rows)
        return search


def answers(leaves: ap.Leaves) -> dict[str, Any]:
    """Values, priors, tokens and rollouts by a leaf's place; some evaluations fail."""
    keys = [
        zlib.crc32(np.array([tree, *path], dtype=np.int64).tobytes())
        for tree, path in leaves.paths()
    ]
    beside = ("token_log_probs", "child_scores")
    names = ("values", "priors", "tokens", *beside, "terminal", "failed")
    out: dict[str, Any] = {name: [] for name in names}
    for key in keys:
        rng = np.random.default_rng(key)
        width = int(rng.integers(1, 5))
        out["values"].append(float(rng.normal()))
        out["priors"].append(rng.dirichlet(np.ones(width)))
        out["tokens"].append([rng.integers(100, size=rng.integers(4)) for _ in range(width)])
        out["token_log_probs"].append([-span / 7 for span in out["tokens"][-1]])
        out["child_scores"].append([span / 3 for span in out["tokens"][-1]])
        out["terminal"].append(bool(rng.random() < 0.05))
        out["failed"].append(bool(rng.random() < 0.02))
    return out


def state(search: ap.Search) -> dict[str, bytes]:
    """Every number of every node, the tokens and what lies beside them."""
    nodes = search.nodes()
    found = {name: np.asarray(column).tobytes() for name, column in vars(nodes).items()}
    found["tokens"], found["spans"] = (part.tobytes() for part in search.tokens())
    found["log_probs"] = search.log_probs().tobytes()
    found["scores"] = search.child_scores()[0].tobytes()
    found["simulations"] = search.simulations.tobytes()
    return found


def killed_and_resumed(
    job: Job, folder: Path, kills: int, seed: int
) -> tuple[ap.Search, dict[str, int]]:
    """The finished search after so many kills, and what happened on the way."""
    rng = np.random.default_rng(seed)
    seen = {"kills": 0, "cut": 0, "before the first record": 0, "finished early": 0}
    longest = 0.03
    while seen["kills"] < kills:
        child = os.fork()
        if child == 0:
            work(job, folder)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DONE:
            # It was too quick: from the beginning again, with less time.
            restart(folder)
            longest *= 0.8
            seen["finished early"] += 1
            continue
        seen["kills"] += 1
        path = folder / LOG
        if not path.exists() or path.stat().st_size < 100:
            restart(folder)
            seen["before the first record"] += 1
        elif rng.random() < 0.3:
            with path.open("r+b") as file:
                file.truncate(max(100, path.stat().st_size - int(rng.integers(1, 40))))
            seen["cut"] += 1
    seen["snapshots"] = len(list(folder.glob("snapshot-*.bin")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return job.finish(opened(job, folder)), seen


def restart(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def opened(job: Job, folder: Path) -> ap.Search:
    if (folder / LOG).exists():
        try:
            return ap.Search.resume(folder)
        except ap.FileFormatError as error:
            if "holds no search" not in str(error):
                raise
            restart(folder)
    search = job.search()
    search.log_to(folder)
    return search


def work(job: Job, folder: Path) -> None:
    """What a child does; it never returns."""
    warnings.simplefilter("ignore")
    try:
        job.finish(opened(job, folder))
        os._exit(DONE)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


JOBS = {
    "puct": Job({}),
    "gumbel": Job({"rule": "gumbel"}, batch=18, per_tree=3),
    "arrival": Job({"tell_order": "arrival", "variance": True}, per_tree=4),
    "merged": Job({"merge": True, "widening": (2.0, 0.5), "virtual_loss": 1.0}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each search (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, action="append", help="default: all")
    parser.add_argument("--snapshot-bytes", type=int, default=2_000, help="between snapshots")
    args = parser.parse_args()
    search_log.SNAPSHOT_BYTES = args.snapshot_bytes
    wrong = 0
    for name in args.job or JOBS:
        job = JOBS[name]
        expected = state(job.finish(job.search()))
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            search, seen = killed_and_resumed(job, Path(folder), args.kills, args.seed)
            search.close()
        got = state(search)
        differ = [column for column in expected if got[column] != expected[column]]
        verdict = f"DIFFERS in {', '.join(differ)}" if differ else "equal to the unbroken run"
        told = ", ".join(f"{count} {what}" for what, count in seen.items())
        print(f"{name}: {verdict}; {told}; {time.monotonic() - begun:.1f} s", flush=True)
        wrong += bool(differ)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
