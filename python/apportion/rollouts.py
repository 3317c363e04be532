"""Rollouts: a batch of sampled episodes in the forms in which trainers hold them.

Depends on `layout`, `records`, `encode` and the core. Nothing is copied that the core can
read in place; what is validated here is what only Python knows (types, nesting),
all else is checked by the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from apportion import _core, encode
from apportion.absent import USUAL, NanPolicy, without_nan
from apportion.arrays import (
    MAX_ROWS,
    Array,
    Origin,
    device_of,
    floats,
    int_vector,
    integers,
    mask_array,
    origin_of,
)
from apportion.errors import InputError
from apportion.layout import Layout, flat_spans, step_rows
from apportion.records import columns_of_records
from apportion.threads import get_num_threads

NO_ORIGIN = Origin()


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Rollouts:
    """A batch of trajectories with named columns, each with a level.

    Build one with `from_padded`, `from_ragged` or `from_lists`, or read one
    with `apportion.read_rollouts`.
    """

    layout: Layout
    columns: Mapping[str, Any] = field(repr=False)
    origin: Origin = NO_ORIGIN
    nan: NanPolicy = USUAL
    absent_values: int = 0  # NaN outside rewards that the policy let pass
    turn_texts: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)
    trajectory_names: Sequence[str] | None = field(default=None, repr=False)

    @classmethod
    def from_padded(
        cls,
        mask: Any,
        *,
        group_ids: Any = None,
        group_size: int | None = None,
        trajectory_ids: Any = None,
        turn_index: Any = None,
        turn_spans: Sequence[Sequence[Sequence[int]]] | None = None,
        nan_rewards: str = "mask",
        nan_values: str = "raise",
        **values: Any,
    ) -> Rollouts:
        """A batch as trainers hold it: padded `(N, T)` arrays, NumPy or torch.

        Args:
            mask: `(N, T)`, 1 for tokens that are trained; tool output and padding 0.
            group_ids: `(N,)` ids of any kind; rows with equal ids are compared.
            group_size: instead of ids: every so many consecutive rows are a group.
            trajectory_ids: `(N,)`. Given when a row is one *turn*: rows with equal
                (and group) ids are one trajectory, whose outcome is its last row's.
                All columns then have one value a row.
            turn_index: `(N,)` integers, the turns' order where rows are not in it; no
                two rows of a trajectory have the same.
            turn_spans: `turn_spans[i]` lists `(start, end)` of row `i`'s turns. By
                default a turn is a maximal run of 1 in the mask.
            nan_rewards: `"mask"` (a NaN reward is absent), `"raise"` or `"zero"`.
            nan_values: the same for NaN in any other column of numbers. Under `"mask"`
                its token is not trained; the turns stay as they are.
            **values: further columns by name, `apportion.columns()` lists them: per
                trajectory `(N,)`; per turn nested by trajectory, `values[i][k]`; per
                token `(N, T)`.

        Raises:
            InputError: a shape, length or name that does not fit.
            DtypeError: an array or object of the wrong type.
        """
        flat = mask_array("mask", mask)
        if flat.ndim != 2:
            raise InputError(f"mask: got shape {flat.shape}, expected (rows, tokens)")
        origin = origin_of(mask) if hasattr(mask, "shape") else Origin(flat.shape)
        rows, width = flat.shape
        if rows > MAX_ROWS:
            raise InputError(f"mask: got {rows} rows, expected at most {MAX_ROWS}")
        layout = Layout(
            rows=rows,
            width=width,
            mask=flat.reshape(-1),
            turns=flat_spans(turn_spans, rows, lambda row: row * width),
            **step_rows(trajectory_ids, turn_index),
        )
        given = _with_groups(values, group_ids, group_size, rows)
        for name, value in given.items():
            _check_padded(name, value, (rows, width))
        return cls._build(layout, given, origin, NanPolicy(nan_rewards, nan_values))

    @classmethod
    def from_ragged(
        cls,
        token_offsets: Any,
        *,
        mask: Any = None,
        group_ids: Any = None,
        group_size: int | None = None,
        trajectory_ids: Any = None,
        turn_index: Any = None,
        turn_spans: Sequence[Sequence[Sequence[int]]] | None = None,
        nan_rewards: str = "mask",
        nan_values: str = "raise",
        **values: Any,
    ) -> Rollouts:
        """A batch without padding: flat arrays and `(N + 1,)` int64 `token_offsets`.

        Row `i` holds the flat tokens `token_offsets[i]` to `token_offsets[i + 1]`.
        Token columns and `mask` (default: all ones) are flat; everything else is as
        in `from_padded`. Arrays are NumPy or torch; `Credit.to_ragged` gives back tensors
        where any of them is one.
        """
        offsets = integers("token_offsets", token_offsets)
        if offsets.ndim != 1 or len(offsets) == 0:
            raise InputError(f"token_offsets: got shape {offsets.shape}, expected (rows + 1,)")
        rows = len(offsets) - 1
        flat = None if mask is None else mask_array("mask", mask)
        if flat is not None and flat.ndim != 1:
            raise InputError(f"mask: got shape {flat.shape}, expected (tokens,)")
        layout = Layout(
            rows=rows,
            token_offsets=offsets,
            mask=flat,
            turns=flat_spans(turn_spans, rows, lambda row: int(offsets[row])),
            **step_rows(trajectory_ids, turn_index),
        )
        given = _with_groups(values, group_ids, group_size, rows)
        origin = Origin(device=device_of(mask, token_offsets, *given.values()))
        return cls._build(layout, given, origin, NanPolicy(nan_rewards, nan_values))

    @classmethod
    def from_tree(
        cls,
        parents: Any,
        *,
        token_offsets: Any = None,
        mask: Any = None,
        nan_rewards: str = "mask",
        **values: Any,
    ) -> Rollouts:
        """Trees of which each row is a node, so that a shared prefix is there once.

        Arrays are NumPy or torch, as in `from_ragged`.

        A root stands for a prompt: its tokens, if it has any, are the prompt's and get no
        credit, and all chains sampled for the prompt are below it. For trajectories that
        repeat their shared prefixes give `node_ids` to `from_padded` instead.

        Args:
            parents: `(nodes,)` integers: each node's parent, an earlier node, or -1.
            token_offsets: `(nodes + 1,)` where each node's own tokens start, those between
                its parent and itself. By default a node is one token.
            mask: `(tokens,)` flat, 1 for tokens that are trained (default: all).
            nan_rewards: `"mask"` (a NaN reward is absent), `"raise"` or `"zero"`.
            **values: further columns: per node `(nodes,)`, such as `outcome_rewards`, read at
                leaves; per token flat.
        """
        count = len(int_vector("parents", parents))
        columns = {**values, "parents": parents}
        if token_offsets is not None:
            return cls.from_ragged(token_offsets, mask=mask, nan_rewards=nan_rewards, **columns)
        flat = None if mask is None else mask_array("mask", mask)
        if flat is not None and flat.shape != (count,):
            raise InputError(f"mask: got shape {flat.shape}, expected ({count},), one a node")
        origin = Origin(device=device_of(mask, *columns.values()))
        layout = Layout(count, width=1, mask=flat)
        return cls._build(layout, columns, origin, NanPolicy(nan_rewards))

    @classmethod
    def from_lists(
        cls,
        trajectories: Iterable[Mapping[str, Any]],
        *,
        nan_rewards: str = "mask",
        nan_values: str = "raise",
    ) -> Rollouts:
        """Trajectories as agents hold them: dictionaries in the JSONL schema.

        Each has `group`, `outcome` and `turns`; a turn has `text` or `tokens`, and
        may have `observation`, `anchor` (default: the observation), `log_probs`,
        `reward`. Further keys that are columns of a method are read as such.
        """
        return cls._from_records(
            encode.as_list("trajectories", trajectories),
            lambda index: f"trajectories[{index}]",
            NanPolicy(nan_rewards, nan_values),
        )

    @classmethod
    def _from_records(
        cls,
        records: Sequence[Mapping[str, Any]],
        where: Callable[[int], str],
        nan: NanPolicy = USUAL,
    ) -> Rollouts:
        """As `from_lists`; `where` names a record in error messages."""
        layout, given, turn_texts = columns_of_records(records, where)
        names = [r.get("trajectory") for r in records]
        named = [str(i) if name is None else str(name) for i, name in enumerate(names)]
        bare = cls._build(layout, given, NO_ORIGIN, nan, turn_texts)
        return replace(bare, trajectory_names=named)

    @classmethod
    def _build(
        cls,
        layout: Layout,
        given: Mapping[str, Any],
        origin: Origin = NO_ORIGIN,
        nan: NanPolicy = USUAL,
        turn_texts: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rollouts:
        encoded: dict[str, Any] = {}
        late = {}
        for name, value in given.items():
            if value is None:
                continue
            if encode.level(name) == "turn" and layout.trajectory_ids is None:
                late[name] = value
            else:
                encoded[name] = encode.encode(name, value)
        bare = cls(layout, encoded, origin, nan, turn_texts=turn_texts)
        if late:
            counts = np.diff(bare.turns[0])
            for name, value in late.items():
                encoded[name] = encode.encode(name, encode.flatten_turns(name, value, counts))
        clean = without_nan(layout, encoded, nan, lambda: bare.turns)
        return cls(clean[0], clean[1], origin, nan, clean[2], turn_texts)

    def with_columns(self, **values: Any) -> Rollouts:
        """The same batch with further or replaced columns; see `from_padded`."""
        added = type(self)._build(self.layout, values, self.origin, self.nan)
        return replace(
            self,
            layout=added.layout,
            columns={**self.columns, **added.columns},
            absent_values=self.absent_values + added.absent_values,
        )

    @cached_property
    def _batch(self) -> _core.Batch:
        layout = self.layout
        return _core.Batch(
            rows=layout.rows,
            width=layout.width,
            token_offsets=layout.token_offsets,
            mask=layout.mask,
            turns=layout.turns,
            trajectory_ids=layout.trajectory_ids,
            turn_index=layout.turn_index,
            nan_rewards=self.nan.rewards,
            columns=list(self.columns.items()),
        )

    @cached_property
    def turns(self) -> tuple[Array, Array]:
        """Turns as `(offsets, spans)`: `(trajectories + 1,)` and `(turns, 2)` flat positions."""
        offsets, spans = _core.turns(self._batch, get_num_threads())
        return offsets, spans.reshape(-1, 2)

    @cached_property
    def turn_rows(self) -> Array | None:
        """Where a row is a turn: the row of each turn, `(turns,)`, in turn order. Else `None`."""
        return _core.turn_rows(self._batch, get_num_threads())

    @property
    def num_turns(self) -> int:
        """Number of turns."""
        return len(self.turns[1])

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        if self.layout.trajectory_ids is None:
            return self.layout.rows
        return len(self.turns[0]) - 1

    @cached_property
    def lengths(self) -> Array:
        """Trained tokens of each trajectory, `(trajectories,)`."""
        return _core.lengths(self._batch, get_num_threads())

    @cached_property
    def groups(self) -> Array:
        """Dense group number of each trajectory, `(trajectories,)`, by first appearance."""
        return _core.groups(self._batch, get_num_threads())

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the fields alone; what is cached is made again."""
        return {own.name: self.__dict__[own.name] for own in fields(self)}

    def __len__(self) -> int:
        """Number of trajectories."""
        return self.num_trajectories


def _with_groups(
    values: Mapping[str, Any], group_ids: Any, group_size: int | None, rows: int
) -> dict[str, Any]:
    if group_size is None:
        return {**values, "group_ids": group_ids}
    if group_ids is not None:
        raise InputError("group_size: given together with group_ids, expected one of them")
    if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer):
        raise InputError(f"group_size: got {group_size!r}, expected an integer")
    if group_size < 1 or rows % group_size:
        raise InputError(f"group_size: got {group_size}, expected a divisor of {rows} rows")
    return {**values, "group_ids": np.arange(rows) // group_size}


def _check_padded(name: str, value: Any, shape: tuple[int, int]) -> None:
    if value is None or encode.level(name) != "token":
        return
    got = tuple(value.shape) if hasattr(value, "shape") else floats(name, value).shape
    if got != shape:
        raise InputError(f"{name}: got shape {got}, expected {shape}, that of the mask")
