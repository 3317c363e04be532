"""The settings of trainers' policy losses, by the names that the trainers use.

Depends on nothing. `PRESETS[trainer][name]` is the loss of ours and the options under
which it is that trainer's, value and gradient. The first name of a trainer is its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Preset = tuple[str, Mapping[str, Any]]

VERL = {"count_rows": "valid", "row_eps": 1e-8, "count_floor": 0.0}
ROWS = {"loss_agg_mode": "seq-mean-token-mean"}
PLAIN_RATIO = {"log_ratio_bounds": None}
TRL = {**PLAIN_RATIO, "count_rows": "all", "dual_clip": None}
TRL_WEIGHT = {key: value for key, value in TRL.items() if key != "dual_clip"}
UNCLIPPED = {"clip_low": None, "clip_high": None}
SKYRL = {"count_rows": "all", "loss_agg_mode": "token-mean"}
OPENRLHF = {"count_rows": "valid", "row_eps": 1e-8, "count_floor": 0.0}
SUMMED = {"loss_agg_mode": "token-sum"}
REGION = {"ratio_cap": None, "stop_ratio": False}

PRESETS: dict[str, dict[str, Preset]] = {
    "verl": {
        "vanilla": ("ppo", {**VERL, "dual_clip": 3.0}),
        "gspo": ("gspo", {**VERL, "clip_low": 0.2, "clip_high": 0.2}),
        "sapo": ("sapo", VERL),
        "gpg": ("gpg", VERL),
        "cispo": ("cispo", VERL),
        "clip_cov": ("clip_cov", VERL),
        "kl_cov": ("kl_cov", VERL),
        "geo_mean": ("geo_mean", {"clip_low": 0.2, "clip_high": 0.2, "count_rows": "all"}),
        "dppo_tv": ("dppo_tv", {**VERL, "ratio_cap": 3.0}),
        "dppo_kl": ("dppo_kl", {**VERL, "ratio_cap": 3.0}),
        "dro": ("dro", VERL),
        "bypass_mode": ("ppo", {**VERL, "dual_clip": 3.0}),
        "reinforce": ("reinforce", VERL),
    },
    "trl": {
        "dapo": ("ppo", TRL),
        "grpo": ("ppo", {**TRL, **ROWS}),
        "bnpo": ("ppo", TRL),
        "dr_grpo": ("ppo", {**TRL, "loss_agg_mode": "dr-grpo"}),
        "luspo": ("luspo", TRL_WEIGHT),
        "cispo": (
            "cispo",
            {**TRL_WEIGHT, "clip_low": None, "clip_high": None, "ratio_cap": 5.0},
        ),
        "sapo": ("sapo", {**TRL_WEIGHT, **ROWS}),
        "vespo": ("vespo", TRL_WEIGHT),
    },
    "openrlhf": {
        "ppo": ("ppo", OPENRLHF),
        "gspo": (
            "gspo",
            {
                **OPENRLHF,
                **PLAIN_RATIO,
                "ratio_grad": "mean",
                "clip_low": 0.2,
                "clip_high": 0.2,
            },
        ),
    },
    "skyrl": {
        "regular": ("ppo", SKYRL),
        "dual_clip": ("ppo", {**SKYRL, "dual_clip": 3.0}),
        "gspo": ("gspo", {**SKYRL, "clip_low": 0.2, "clip_high": 0.2}),
        "sapo": ("sapo", SKYRL),
        "cispo": ("cispo", {**SKYRL, "clip_low": 1.0, "clip_high": 4.0}),
        "rollout_is": ("cispo", {**SKYRL, "outside": "drop"}),
        "dppo": ("dppo_tv", {**SKYRL, **REGION}),
        "dppo_kl": ("dppo_kl", {**SKYRL, **REGION}),
        "clip_cov": ("clip_cov", SUMMED),
        "kl_cov": ("kl_cov", {**SUMMED, "cov_ratio": 0.2, "cov_kl_coef": 1.0}),
        "cross_entropy": ("cross_entropy", SUMMED),
        "importance_sampling": ("ppo", {**SKYRL, **PLAIN_RATIO, **UNCLIPPED}),
    },
}
"""Trainers and their losses.

Sequence-level ratios of TRL are `ratio="sequence", ratio_grad="mean"`, as its
`importance_sampling_level="sequence"`. SkyRL scales the advantages by its reduction and
sums: the losses that are not linear in them (`SUMMED`) take its scaled advantages.
"""
