from typing import Any, final

import numpy as np
import numpy.typing as npt

__version__: str
__debug_build__: bool

_Floats = npt.NDArray[Any]
_Ints = npt.NDArray[np.int64]

@final
class Batch:
    def __new__(
        cls,
        *,
        rows: int,
        width: int | None,
        token_offsets: _Ints | None,
        mask: npt.NDArray[Any] | None,
        turns: tuple[_Ints, _Ints] | None,
        trajectory_ids: Any,
        turn_index: _Ints | None,
        nan_rewards: str,
        columns: list[tuple[str, Any]],
    ) -> Batch: ...

def methods() -> list[dict[str, Any]]: ...
def credit(
    batch: Batch, method: str, given: dict[str, Any], like: str | None, threads: int
) -> dict[str, Any]: ...
def batch_wide(method: str, given: dict[str, Any], like: str | None) -> bool: ...
def to_tokens(
    batch: Batch, level: str, values: _Floats, fill: float, double: bool, threads: int
) -> _Floats: ...
def turns(batch: Batch, threads: int) -> tuple[_Ints, _Ints]: ...
def lengths(batch: Batch, threads: int) -> _Ints: ...
def groups(batch: Batch, threads: int) -> _Ints: ...
def turn_rows(batch: Batch, threads: int) -> _Ints | None: ...
def group(name: str, ids: Any) -> _Ints: ...
def group_normalise(
    values: _Floats, ids: _Ints, weights: _Floats | None, counted: bool, given: dict[str, Any]
) -> _Floats: ...
def whiten(
    batch: Batch, values: _Floats, remask: bool, threads: int, given: dict[str, Any]
) -> _Floats: ...
def accumulate(values: _Floats, offsets: _Ints, how: str, gamma: float) -> _Floats: ...
def shape_rewards(
    batch: Batch,
    scores: _Floats,
    kl: _Floats,
    clip: tuple[float, float] | None,
    kl_coef: float,
    threads: int,
) -> _Floats: ...
