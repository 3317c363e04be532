"""Credit: running a method on rollouts, and what comes back. Depends on `rollouts`.

`credit("name", rollouts, **options)` runs a method of the core;
`credit(function, rollouts, **options)` runs a function of yours, so that a
prototype needs no registry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, Origin, floats
from apportion.errors import DtypeError, InputError, OptionError
from apportion.rollouts import Rollouts
from apportion.threads import get_num_threads

Leveled = tuple[str, Array]  # a level, and one value for each unit of it


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Credit:
    """What a method returns. Values stay at their own level until tokens are asked for."""

    method: str
    rollouts: Rollouts = field(repr=False)
    values: Mapping[str, Leveled] = field(repr=False)
    """Level and values of `advantages`, and where the method has them of
    `returns`, `clip_scale` and `loss_mask`."""
    extras: Mapping[str, Leveled] = field(repr=False)
    """Parts of the result worth looking at, by name, each with its level."""
    counts: Mapping[str, int]
    """`groups`, `singletons`, `zero_spread` groups, and `absent`: NaN among rewards, and in
    other columns where `nan_values` lets them pass."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options that were given; the others were at the method's defaults."""
    like: str | None = None
    """The trainer whose settings were taken, if one was named."""

    @property
    def level(self) -> str:
        """The level of the advantages: `"trajectory"`, `"turn"` or `"token"`."""
        return self.values["advantages"][0]

    @functools.cached_property
    def advantages(self) -> Array:
        """Advantage of each token, flat, in the order of the rows; 0 where masked.

        NumPy's also where tensors came in; `to_padded` and `to_ragged` give those back.
        """
        return self.tokens("advantages")

    @functools.cached_property
    def turn_advantages(self) -> Array:
        """Advantage of each turn, `(turns,)`: its own, or the mean over its tokens.

        In turn order; where a row is a turn, in the order of the rows.
        """
        return self._by_turn(*self.values["advantages"])

    def tokens(self, name: str = "advantages", dtype: Any = None) -> Array:
        """A part of the result by token, flat. `name` as in `values` or `extras`.

        Tokens outside the mask get 0, in `clip_scale` 1. `dtype` is float32 or
        float64; by default float64 only if the rewards were float64.
        """
        level, values = self._part(name)
        if dtype is not None and dtype not in (np.float32, np.float64, "float32", "float64"):
            raise DtypeError(f"dtype: got {dtype!r}, expected float32 or float64")
        double = self._is_double() if dtype is None else np.dtype(dtype) == np.float64
        if level == "token":
            wanted = np.float64 if double else np.float32
            return values if dtype is None else values.astype(wanted, copy=False)
        fill = 1.0 if name == "clip_scale" else 0.0
        batch = self.rollouts._batch
        return _core.to_tokens(batch, level, values, fill, double, get_num_threads())

    def to_padded(self, name: str = "advantages", dtype: Any = None) -> Any:
        """A part of the result in the shape and kind in which the mask came in."""
        origin = self.rollouts.origin
        if origin.shape is None:
            raise InputError(
                "to_padded: the rollouts came in ragged, so there is no padded shape; "
                "use to_ragged() and the token offsets"
            )
        return origin.restore(self.tokens(name, dtype))

    def to_ragged(self, name: str = "advantages", dtype: Any = None) -> Any:
        """A part of the result by token, flat, in the kind in which the rollouts came in.

        As `tokens`; a tensor, on their device, where the mask or another part of ragged
        rollouts or of a tree was one.
        """
        return Origin(device=self.rollouts.origin.device).restore(self.tokens(name, dtype))

    def _part(self, name: str) -> Leveled:
        found = self.values.get(name) or self.extras.get(name)
        if found is None:
            known = ", ".join([*self.values, *self.extras])
            raise InputError(f"{self.method} returned no {name!r}, expected one of {known}")
        return found

    def _is_double(self) -> bool:
        names = ("outcome_rewards", "token_rewards", "turn_rewards", "reward_matrix")
        found = [self.rollouts.columns[n] for n in names if n in self.rollouts.columns]
        arrays = [given[0] if isinstance(given, tuple) else given for given in found]
        return any(getattr(array, "dtype", None) == np.float64 for array in arrays)

    def _by_turn(self, level: str, values: Array) -> Array:
        if level == "turn":
            return values
        if level == "trajectory":
            ordered = np.repeat(values, np.diff(self.rollouts.turns[0]))
        else:
            double = values.astype(np.float64, copy=False)
            ordered = _core.to_turns(self.rollouts._batch, double, get_num_threads())
        rows = self.rollouts.turn_rows
        if rows is None:
            return ordered
        by_row = np.empty_like(ordered)
        by_row[rows] = ordered
        return by_row


Function = Callable[..., Any]


def credit(
    method: str | Function, rollouts: Rollouts, *, like: str | None = None, **options: Any
) -> Credit:
    """Give every trajectory, turn or token its credit.

    Args:
        method: a name that `apportion.methods()` lists, or a function
            `f(rollouts, **options)` that returns an array with one value for each
            trajectory, turn or token; its length says which.
        rollouts: the batch.
        like: a trainer whose settings of the method are reproduced exactly, for
            example `"verl"` or `"trl"`; `options` override them.
        **options: the method's options, see `apportion.methods()[name].options`.

    Raises:
        OptionError: unknown method, trainer or option, or a value out of its range.
        MissingColumnError: the method needs a column that the rollouts lack.
        InputError: lengths or values that do not fit; the message names the index.
    """
    if callable(method):
        if like is not None:
            raise InputError("like: got a trainer, but a function of yours has no presets")
        return _run_function(method, rollouts, options)
    if not isinstance(rollouts, Rollouts):
        raise InputError(f"rollouts: got {type(rollouts).__name__}, expected apportion.Rollouts")
    method, trainer = _name("method", method), None if like is None else _name("like", like)
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    result = _core.credit(rollouts._batch, method, plain, trainer, get_num_threads())
    names = ("advantages", "returns", "clip_scale", "loss_mask")
    values = {name: result[name] for name in names if result[name] is not None}
    counts = {**result["counts"]}
    counts["absent"] += rollouts.absent_values
    return Credit(method, rollouts, values, result["extras"], counts, options, like)


def _name(argument: str, given: object) -> str:
    if not isinstance(given, str):
        raise OptionError(f"{argument}: got {given!r}, expected a name")
    return given.encode("utf-8", "replace").decode()  # lone surrogates cannot reach the core


def _run_function(function: Function, rollouts: Rollouts, options: Mapping[str, Any]) -> Credit:
    name = getattr(function, "__name__", "function")
    returned = function(rollouts, **options)
    if returned is None:
        raise InputError(f"{name}: returned None, expected an array")
    values = floats(name, returned).reshape(-1)
    sizes = {
        "token": rollouts.layout.tokens,
        "turn": rollouts.num_turns,
        "trajectory": rollouts.num_trajectories,
    }
    fitting = [level for level, size in sizes.items() if size == len(values)]
    if not fitting:
        raise InputError(f"{name}: returned {len(values)} values, expected one of {sizes}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        got = values[bad[0]]
        raise InputError(f"{name}: returned {got} at index {bad[0]}, expected finite numbers")
    level = fitting[-1]
    kept = values if level == "token" else values.astype(np.float64)
    return Credit(name, rollouts, {"advantages": (level, kept)}, {}, {}, options)
