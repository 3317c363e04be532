"""Forms of the light op's kernels for `apportion.kernels.aot`. Depends on the kernels.

The token kernel has more flags than can all be combined; `token_variants` is a pairwise
cover: any two settings of two flags occur together, but for pairs that a call cannot have.
The kinds of KL count as one setting, and the plainer forms of `PLAIN` occur once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apportion.kernels.triton import segments as seg
from apportion.kernels.triton.shipped import Shipped, pairwise
from apportion.kernels.triton.sums import det_sum_kernel
from apportion.kernels.triton.token_loss import BLOCK, token_loss_kernel

FACTORS: dict[str, Sequence[Any]] = {
    "SURROGATE": (
        *("ppo", "row_ppo", "clip_cov", "kl_cov", "cispo", "cispo_drop", "sapo", "topr", "vespo"),
        *("policy_gradient", "cross_entropy", "dro", "geometric"),
        *("dppo_tv", "dppo_tv_stop", "dppo_kl", "dppo_kl_stop"),
    ),
    "POOLED": ("", "mean"),
    "WIDTHS": (1, 2),
    "SCALE": (0, 2),
    "PENALTY": (False, True),
    "BOUNDED": (False, True),
    "DUAL": (False, True),
    "MULTIPLIER": (False, True),
    "ROW_IDS": (False, True),
    "SEGMENT_IDS": (False, True),
    "TYPE": ("fp32", "bf16"),
}
PLAIN = {
    **{name: values[0] for name, values in FACTORS.items()},
    **{"POOLED": "token", "WIDTHS": 0, "SCALE": 1},
}
KINDS = [(k, p, t) for k in ("k1", "abs", "k2", "k3") for p in (False, True) for t in (False, True)]
NUM_WARPS = 4
INTEGERS = ("size", "width", "segment_width", "blocks", "count", "chunks")
IDS = ("row_ids", "segment_ids", "ids", "offsets", "order")
BY_VALUE = (
    *("low", "high", "scale", "least", "most", "cap", "dual", "c0", "c1", "c2", "c3", "eps"),
    *("kl_coef", "kl_input", "kl_output"),
)


def shipped() -> Iterator[Shipped]:
    """Every kernel of the light op."""
    yield from token_variants()
    yield from segment_variants()
    yield _form(det_sum_kernel, "det_sum", {"BLOCK": BLOCK})


def token_variants() -> Iterator[Shipped]:
    """The pairwise cover of K5."""
    for number, row in enumerate([*pairwise(FACTORS, _can_be), dict(PLAIN)]):
        kind, plus, times = KINDS[number % len(KINDS)] if row["PENALTY"] else ("", False, False)
        width = row.pop("WIDTHS")
        constants = {
            **{k: v for k, v in row.items() if k not in ("PENALTY", "TYPE")},
            **{"LOW": width, "HIGH": width, "KL": kind, "KL_PLUS": plus, "KL_TIMES_RATIO": times},
            "BLOCK": BLOCK,
        }
        constants |= _absent(
            row_ids=row["ROW_IDS"],
            row_values=row["SURROGATE"] in ("vespo", "geometric", "row_ppo"),
            row_divisors=row["SURROGATE"] == "row_ppo",
            chosen=row["SURROGATE"] in ("clip_cov", "kl_cov"),
            pooled=row["POOLED"],
            segment_ids=row["SEGMENT_IDS"],
            low_widths=width == 2,
            high_widths=width == 2,
            scales=row["SCALE"] == 2,
            multipliers=row["MULTIPLIER"],
            reference=kind,
        )
        flags = [k.lower() for k, v in constants.items() if v is True]
        flags += [v for k, v in constants.items() if k in ("POOLED", "KL") and v]
        name = f"token_loss {number} {row['SURROGATE']} {' '.join(flags)}"
        yield _form(token_loss_kernel, name, constants, row["TYPE"])


def segment_variants() -> Iterator[Shipped]:
    """Every term of K4 with either layout, and the kernels around it."""
    ways = ((False, False, True), (True, True, False))
    for term, (offsets, order, whole) in itertools.product(
        ("ratio", "geometric", "vespo", "advantage", "values"), ways
    ):
        weighed = term in ("geometric", "vespo") and offsets
        low, high = (2 if offsets else 0, 1) if term == "geometric" else (0, 0)
        constants = {
            **{"TERM": term, "MEAN": term not in ("vespo", "values"), "LOW": low, "HIGH": high},
            **{"OFFSETS": offsets, "ORDER": order, "WHOLE": whole, "WEIGHTS": weighed},
            **{"CHUNK": seg.CHUNK, "BLOCK": seg.BLOCK},
            **_absent(weights=weighed, low_widths=low == 2, high_widths=False),
            **_absent(values=term == "values", offsets=offsets, order=order),
        }
        yield _form(seg.seg_reduce_kernel, f"seg_reduce[{term},{order}]", constants)
    for mean in (False, True):
        constants = {"MEAN": mean, "BLOCK": seg.BLOCK}
        yield _form(seg.seg_finish_kernel, f"seg_finish[{mean}]", constants)
    for ids, passes in itertools.product((False, True), repeat=2):
        constants = {"IDS": ids, "PASSES": passes, "BLOCK": BLOCK}
        constants |= _absent(ids=ids, passes=passes)
        yield _form(seg.seg_spread_kernel, f"seg_spread[{ids},{passes}]", constants)


def _absent(**given: Any) -> dict[str, None]:
    """Inputs that are not given, and are `None` when the kernel is launched."""
    return {name: None for name, present in given.items() if not present}


def _can_be(row: Mapping[str, Any]) -> bool:
    """GMPO has no pooled ratio; segments need one to be pooled over."""
    geometric = row.get("SURROGATE") == "geometric"
    if geometric and (row.get("POOLED") or row.get("SEGMENT_IDS")):
        return False
    return not (row.get("SEGMENT_IDS") and row.get("POOLED") == "")


def _form(kernel: Any, name: str, constants: Mapping[str, Any], dtype: str = "fp32") -> Shipped:
    types = {}
    for argument in kernel.arg_names:
        if argument in constants:
            continue
        if argument in INTEGERS:
            types[argument] = "i32"
        elif argument in BY_VALUE:
            types[argument] = "fp32"
        elif argument in IDS:
            types[argument] = "*i64"
        else:
            types[argument] = f"*{dtype}" if argument == "log_probs" else "*fp32"
    # Loads are predicated by the mask, token by token, which rules out wide ones.
    return Shipped(name, kernel, types, constants, NUM_WARPS, wide_loads=False)
