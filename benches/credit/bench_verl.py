"""verl's own estimators, on the arrays that verl hands them.

Ours reads the same memory as NumPy arrays and returns arrays; in the rows named
`accelerate` it stands in verl's place, tensors in and out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from batches import Padded, padded, thread_counts

import apportion as ap
from apportion.integrations.verl_functions import REPLACEMENTS

torch = pytest.importorskip("torch")
core = pytest.importorskip("verl.trainer.ppo.core_algos")
from verl.trainer.config import AlgoConfig  # noqa: E402

GAMMA, LAM = 0.99, 0.95
CONFIG = AlgoConfig(gamma=GAMMA)


@dataclass
class Batch:
    """The same memory twice: as arrays and as tensors."""

    arrays: Padded
    columns: dict[str, Any]  # token columns by our names
    tensors: dict[str, Any]  # by verl's names


@functools.lru_cache(maxsize=1)  # the largest batch is 2 GiB
def batch(rows: int, width: int) -> Batch:
    arrays = padded(rows, width)
    columns = {"values": np.random.default_rng(1).standard_normal((rows, width), np.float32)}
    tensors = {
        "token_level_rewards": torch.from_numpy(arrays.rewards),
        "response_mask": torch.from_numpy(arrays.mask),
        **{name: torch.from_numpy(array) for name, array in columns.items()},
    }
    return Batch(arrays, columns, tensors)


@dataclass(frozen=True)
class Estimator:
    method: str
    function: str  # in verl
    options: tuple[tuple[str, float], ...] = ()
    columns: tuple[str, ...] = ()
    grouped: bool = True
    returns: bool = False  # whether returns are an array of their own
    like: str = "verl"
    goal: float | None = None  # at 65,536 x 2,048

    def ours(self, data: Batch) -> tuple[Any, Any]:
        own = {name: data.columns[name] for name in self.columns}
        uid = data.arrays.uid if self.grouped else None
        rollouts = ap.Rollouts.from_padded(
            data.arrays.mask, group_ids=uid, token_rewards=data.arrays.rewards, **own
        )
        credit = ap.credit(self.method, rollouts, like=self.like, **dict(self.options))
        advantages = credit.to_padded()
        return advantages, credit.to_padded("returns") if self.returns else advantages

    def arguments(self, data: Batch) -> dict[str, Any]:
        names = ("token_level_rewards", "response_mask", *self.columns)
        given = {name: data.tensors[name] for name in names}
        if self.grouped:
            given["index"] = data.arrays.uid
        if self.method == "gae":
            return {**given, **dict(self.options)}
        return {**given, "config": CONFIG}

    def verl(self, data: Batch) -> tuple[Any, Any]:
        return getattr(core, self.function)(**self.arguments(data))

    def replaced(self, data: Batch) -> tuple[Any, Any]:
        return REPLACEMENTS[self.function](**self.arguments(data))

    def moved(self, data: Batch) -> int:
        """Bytes of input read once and of output written once."""
        read = data.arrays.mask.itemsize + 4 + 4 * len(self.columns)
        return data.arrays.tokens * (read + 4 * (1 + self.returns))


def _named(method: str, stem: str, **more: Any) -> Estimator:
    return Estimator(method, f"compute_{stem}_outcome_advantage", **more)


ESTIMATORS = {
    "gae": Estimator(
        "gae",
        "compute_gae_advantage_return",
        (("gamma", GAMMA), ("lam", LAM)),
        ("values",),
        grouped=False,
        returns=True,
        goal=40,
    ),
    "reinforce_pp": _named(
        "reinforce_pp",
        "reinforce_plus_plus",
        options=(("gamma", GAMMA),),
        grouped=False,
        returns=True,
        goal=40,
    ),
    "grpo": _named("grpo", "grpo", goal=5),
    "grpo_vectorized": _named("grpo", "grpo_vectorized"),
    "rloo": _named("rloo", "rloo"),
    "rloo_vectorized": _named("rloo", "rloo_vectorized", like="verl_vectorized"),
    "reinforce_pp_baseline": _named("reinforce_pp_baseline", "reinforce_plus_plus_baseline"),
}
LARGEST = (65536, 2048)
SIZES = [(1024, 512), (1024, 2048), (8192, 512), (8192, 2048), (65536, 512), LARGEST]
QUICK_SIZES = [(1024, 512), (8192, 2048)]


def check_equal(first: Callable[[Batch], Any], second: Callable[[Batch], Any]) -> None:
    """Both give verl's numbers, within float32 rounding, on a small batch."""
    small = batch.__wrapped__(64, 48)
    for mine, theirs in zip(first(small), second(small), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("threads", thread_counts())
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_verl(
    compare: Callable[..., None], quick: bool, size: tuple[int, int], name: str, threads: int
) -> None:
    estimator = ESTIMATORS[name]
    threaded = estimator.goal is not None and size in (QUICK_SIZES[-1], LARGEST)
    if (quick and size not in QUICK_SIZES) or (threads > 1 and not threaded):
        pytest.skip("not among the quick sizes, or not among those for all threads")
    check_equal(estimator.ours, estimator.verl)
    data = batch(*size)
    compare(
        f"{name} {size[0]}x{size[1]}",
        "verl",
        lambda: estimator.ours(data),
        lambda: estimator.verl(data),
        goal=estimator.goal if size == LARGEST and threads == 1 else None,
        moved=estimator.moved(data),
        threads=threads,
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def bench_accelerate(compare: Callable[..., None], quick: bool, name: str) -> None:
    """What a user of verl gains: `accelerate()`, verl's own arguments, tensors out."""
    rows, width = (1024, 512) if quick else (8192, 2048)
    estimator = ESTIMATORS[name]
    check_equal(estimator.replaced, estimator.verl)
    data = batch(rows, width)
    compare(
        f"{name} {rows}x{width}, accelerate()",
        "verl",
        lambda: estimator.replaced(data),
        lambda: estimator.verl(data),
        moved=estimator.moved(data),
    )
