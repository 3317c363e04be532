"""Every oracle against every reference case of its folder under `tests/golden/`.

The oracles judge the engine, so they are themselves judged here first, at each case's own
tolerance (`tests/golden/README.md`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from oracles import a3, matching, outcome, pure, steps, text, token, turns
from oracles.common import as_floats, masked_whiten

GOLDEN = Path(__file__).parent / "golden"
Case = Mapping[str, Any]
Outputs = dict[str, Any]

# Losses are checked where the losses are: these cases hold no advantage.
LOSS_FUNCTIONS = {"compute_policy_loss_gspo_turn", "compute_policy_loss_gspo_sequence"}

# The reference takes this variance as E[x^2] - E[x]^2 in float32: cancellation costs 3e-5.
LOOSER = {"verl_grpo_vectorized/case_04_ragged_uneven_groups": 5e-5}


def _revive(value: Any) -> Any:
    """The strings "nan", "inf" and "-inf" back to numbers, at any depth."""
    if isinstance(value, list):
        return [_revive(entry) for entry in value]
    if isinstance(value, str) and value in ("nan", "inf", "-inf", "NaN", "Infinity", "-Infinity"):
        return float(value)
    return value


def _padded_args(case: Case) -> tuple[Any, Any, Any]:
    inputs = case["inputs"]
    return inputs["token_level_rewards"], inputs["response_mask"], inputs["index"]


def _same(advantages: ArrayLike) -> Outputs:
    return {"advantages": advantages, "returns": advantages}


def _pair(result: tuple[ArrayLike, ArrayLike]) -> Outputs:
    return {"advantages": result[0], "returns": result[1]}


def _grpo(case: Case, std: str = "std") -> Outputs:
    hyper = case["meta"]["hyperparameters"]
    scale = std if hyper["norm_adv_by_std_in_grpo"] else "none"
    return _same(outcome.grpo(*_padded_args(case), scale=scale, eps=hyper["epsilon"]))


def _passk(case: Case) -> Outputs:
    hyper = case["meta"]["hyperparameters"]
    scale = "std" if hyper["norm_adv_by_std_in_grpo"] else "none"
    if "error" in case["outputs"]:
        with pytest.raises(ValueError, match="at least 2"):
            outcome.grpo_passk(*_padded_args(case), scale=scale, eps=hyper["epsilon"])
        return {}
    return _same(outcome.grpo_passk(*_padded_args(case), scale=scale, eps=hyper["epsilon"]))


def _gae(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    advantages, returns = token.gae(
        inputs["token_level_rewards"], inputs["values"], inputs["response_mask"], **hyper
    )
    return {"advantages": advantages, "advantages_whitened": advantages, "returns": returns}


def _reinforce_pp(case: Case) -> Outputs:
    rewards, mask, _ = _padded_args(case)
    return _pair(token.reinforce_pp(rewards, mask, **case["meta"]["hyperparameters"]))


def _remax(case: Case) -> Outputs:
    rewards, mask, _ = _padded_args(case)
    return _pair(token.remax(rewards, mask, case["inputs"]["reward_baselines"]))


def _otb(case: Case, multi_turn: bool = False) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    result = token.optimal_token_baseline(
        *_padded_args(case),
        inputs["old_log_probs"],
        inputs["sum_pi_squared"],
        rollout_is_weights=inputs.get("rollout_is_weights"),
        handle_zero_tail=hyper["handle_zero_tail"],
        multi_turn=multi_turn,
        eps=hyper["epsilon"],
    )
    return _pair(result)


def _whiten(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    degenerate = "raise" if "error" in case["outputs"] else "zero"
    arguments = {
        "shift_mean": hyper["shift_mean"],
        "eps": hyper["eps"],
        "ddof": int(hyper["unbiased"]),
        "degenerate": degenerate,
    }
    if degenerate == "raise":
        with pytest.raises(ValueError, match="whitening needs"):
            masked_whiten(inputs["values"], inputs["mask"], **arguments)
        return {}
    return {"whitened": masked_whiten(inputs["values"], inputs["mask"], **arguments)}


def _trl(case: Case) -> Outputs:
    hyper = dict(case["meta"]["hyperparameters"])
    hyper["aggregation"] = hyper.pop("multi_objective_aggregation")
    return {"advantages": outcome.trl_advantages(case["inputs"]["rewards_per_func"], **hyper)}


def _openrlhf_gae(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    rewards, mask = inputs["rewards"], inputs["action_mask"]
    if "values" not in inputs:
        returns = token.cumulative_returns_openrlhf(rewards, mask, gamma=hyper["gamma"])
        return {"returns": returns}
    lam = hyper["lambd"]
    return _pair(token.gae_openrlhf(rewards, inputs["values"], mask, gamma=hyper["gamma"], lam=lam))


def _openrlhf_reward(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    return {
        "reward": token.openrlhf_reward(inputs["r"], inputs["kl"], inputs["action_mask"], **hyper)
    }


def _process_supervision(case: Case) -> Outputs:
    rewards, lengths = case["inputs"]["step_rewards"], case["inputs"]["step_token_lengths"]
    ragged = steps.grpo_process_supervision(
        rewards, lengths, ["g"] * len(rewards), eps=case["meta"]["hyperparameters"]["eps"]
    )
    return {"advantages": ragged}


def _gigpo(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    if "pairs" in inputs:
        return {"ratio": [text.similarity_ratio(a, b) for a, b in inputs["pairs"]]}
    threshold = hyper["similarity_thresh"] if hyper["enable_similarity"] else None
    stats_over = "rows" if hyper["compute_mean_std_cross_steps"] else "trajs"
    anchors = [str(state) for state in inputs["anchor_obs"]]
    prompts, traj = inputs["uid"], inputs["traj_uid"]
    rewards, mask = inputs["token_level_rewards"], inputs["response_mask"]
    common = {"mode": hyper["mode"], "stats_over": stats_over, "eps": hyper["epsilon"]}
    arguments = (rewards, mask, inputs["step_rewards_raw"], anchors, prompts, traj)
    options = {**common, "gamma": hyper["gamma"], "similarity_thresh": threshold}
    both = steps.gigpo(*arguments, **options, step_weight=hyper["step_advantage_w"])
    episode = steps.gigpo(*arguments, **options, step_weight=0.0)
    step = steps.gigpo(*arguments, **options, step_weight=1.0) - episode
    groups = steps.gigpo_step_groups(anchors, prompts, similarity_thresh=threshold)
    return {
        "step_returns": steps.gigpo_step_returns(
            inputs["step_rewards_raw"], traj, gamma=hyper["gamma"]
        ),
        "step_group_id": _partition(groups),
        "episode_advantage_row": episode,
        "step_advantage": step,
        "advantages": both,
    }


def _partition(labels: list[Any]) -> list[int]:
    """Labels renumbered by first appearance, so that equal partitions compare equal."""
    seen: dict[Any, int] = {}
    return [seen.setdefault(entry, len(seen)) for entry in labels]


def _a2tgpo(case: Case) -> Outputs:
    hyper = case["meta"]["hyperparameters"]
    advantages, clip_scale = turns.a2tgpo(
        *_padded_args(case),
        gamma=hyper["gamma"],
        alpha=hyper["adv_rescale_alpha"],
        mode=hyper["info_gain_norm_mode"],
        divide_by_std=hyper["norm_adv_by_std_in_grpo"],
        eps=hyper["epsilon"],
    )
    return {"advantages": advantages, "clip_scale": clip_scale}


def _igpo(case: Case) -> Outputs:
    hyper = case["meta"]["hyperparameters"]
    advantages = turns.igpo(
        *_padded_args(case),
        gamma=hyper["gamma"],
        mode=hyper["info_gain_norm_mode"],
        outcome_weight=hyper["curriculum_f1_weight"],
        gain_weight=hyper["curriculum_ig_weight"],
        eps=hyper["epsilon"],
    )
    return {"advantages": advantages}


def _matchtir(case: Case) -> Outputs:
    inputs, outputs, hyper = case["inputs"], case["outputs"], case["meta"]["hyperparameters"]
    if "token_level_rewards" in inputs:
        scale = "std" if hyper["norm_adv_by_std_in_grpo"] else "none"
        result = steps.matchtir(
            *_padded_args(case), lam=hyper["lam"], scale=scale, eps=hyper["epsilon"]
        )
        return {"advantages": result}
    if "pairs" in inputs:
        answers = [(text.tagged_answer(turn) or "", gold) for turn, gold in inputs["pairs"]]
        return {"f1": [text.answer_f1(answer, gold) for answer, gold in answers]}
    if "preds" in inputs:
        similarity = matching.similarity_matrix(inputs["preds"], inputs["gts"])
    else:
        similarity = as_floats(inputs["similarity"])
    if "reg" in hyper:
        np.testing.assert_allclose(
            similarity, as_floats(inputs["similarity"]).reshape(similarity.shape)
        )
        return {"rewards": matching.sinkhorn_rewards(similarity, reg=hyper["reg"])}
    greedy = matching.greedy_assignment(similarity)
    found: Outputs = {"assignment": greedy}
    if "similarity" in outputs:
        found["similarity"] = similarity
    if "rewards_train" in outputs:
        found["rewards_train"] = matching.hard_rewards(similarity, greedy)
        found["rewards_default_penalty"] = matching.hard_rewards(similarity, greedy, unmatched=-0.5)
    if "optimal_assignment_scipy" in outputs:
        wanted = outputs["optimal_assignment_scipy"]
        assert wanted in matching.optimal_assignments(similarity)
        found["optimal_assignment_scipy"] = wanted
    return found


def _a3(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    if "distance" in inputs:
        return {"labels": a3.single_linkage_labels(inputs["distance"], hyper["k"])}
    options = a3.A3Options(
        eps=hyper["epsilon"],
        bound=hyper["adv_bound"],
        tau=hyper["trie_min_count"],
        residual_weight=hyper["w_trie"],
        tree_weight=hyper["w_action_cluster"],
        support_prior=hyper["support_prior"],
        gamma=hyper["decision_gamma"],
        scopes=tuple(hyper["intent_scopes"]),
        scope_weights=tuple(hyper["w_intent_scopes"]),
        match_tolerance=hyper["A3_algo_tree_intent_match_tau"],
        time_decay=hyper["A3_algo_tree_bucket_time_decay"],
    )
    parts = a3.a3(
        inputs["prompt"],
        inputs["traj"],
        inputs["turn"],
        inputs["episode_score"],
        inputs["signature"],
        options,
    )
    return {
        "backbone": parts.backbone,
        "residual": parts.residual,
        "residual_bounded": parts.residual_bounded,
        "state_group": parts.state_group,
        "action_group": parts.action_group,
        "tree_return": parts.tree_return,
        "tree_support": parts.tree_support,
        "scalar_advantage": parts.advantages,
    }


def _pure_transform(case: Case) -> Outputs:
    hyper = case["meta"]["hyperparameters"]
    transformed = pure.transform(
        pure.step_scores(case["inputs"]["logits"]),
        case["inputs"]["step_mask"],
        temperature=hyper["temperature"],
        uniform=hyper["disable_weighted_reward"],
    )
    return {"transformed_process_reward": transformed, "outcome_reward": transformed.sum(axis=1)}


def _pure_verl(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    rewards = inputs["token_level_rewards"]
    temperature = hyper["transform_temperature"]
    if temperature is not None:
        steps_only = pure.transform(
            inputs["step_rewards_raw"], inputs["step_end_mask"], temperature=temperature
        )
        np.testing.assert_allclose(steps_only, as_floats(rewards), rtol=2e-5, atol=2e-6)
    result = pure.pure_verl(
        rewards,
        inputs["eos_mask"],
        inputs["index"],
        aggregate=hyper["return_aggregate_method"],
        normalise=hyper["adv_norm"],
    )
    return _pair(result)


def _pure_openrlhf(case: Case) -> Outputs:
    inputs, hyper = case["inputs"], case["meta"]["hyperparameters"]
    found: Outputs = {}
    for group in ("g0", "g1"):
        rewards = inputs[f"{group}_process_reward"]
        ends = inputs[f"{group}_process_reward_mask"]
        solved = inputs[f"{group}_solved"]
        baselined, returns, advantages = pure.pure_openrlhf(
            rewards,
            ends,
            inputs[f"{group}_action_mask"],
            inputs[f"{group}_num_tokens_per_step"],
            solved if "VR" in hyper["reward_mode"] else None,
            [group] * len(rewards),
            baseline=hyper["reward_baseline"],
            coef=hyper["verifiable_reward_coef"],
        )
        found[f"baselined_rewards_{group}"] = baselined
        found[f"returns_{group}"] = returns
        found[f"advantages_separator_masked_{group}"] = advantages
        found[f"match_{group}"] = pure.prm_label_matches(rewards, ends, solved)
    return found


RUNNERS: dict[str, Callable[[Case], Outputs]] = {
    "grpo": _grpo,
    "verl_grpo": _grpo,
    "verl_dr_grpo_adv": _grpo,
    "verl_grpo_vectorized": lambda case: _grpo(case, std="floored"),
    "verl_grpo_passk": _passk,
    "verl_rloo": lambda case: _same(outcome.rloo(*_padded_args(case))),
    "verl_rloo_vectorized": lambda case: _same(outcome.rloo(*_padded_args(case), singleton="zero")),
    "verl_opo": lambda case: _same(outcome.opo(*_padded_args(case))),
    "verl_gpg": lambda case: _same(outcome.gpg(*_padded_args(case))),
    "verl_reinforce_pp": _reinforce_pp,
    "verl_reinforce_pp_baseline": lambda case: _same(
        outcome.reinforce_pp_baseline(*_padded_args(case))
    ),
    "verl_remax": _remax,
    "verl_otb": _otb,
    "verl_otb_multi_turn": lambda case: _otb(case, multi_turn=True),
    "verl_masked_whiten": _whiten,
    "gae": _gae,
    "verl_gae": _gae,
    "trl_grpo_advantage": _trl,
    "openrlhf_gae": _openrlhf_gae,
    "openrlhf_reward": _openrlhf_reward,
    "grpo_process_supervision_formula": _process_supervision,
    "gigpo": _gigpo,
    "a2tgpo": _a2tgpo,
    "igpo": _igpo,
    "matchtir": _matchtir,
    "a3": _a3,
    "pure_transform": _pure_transform,
    "pure_verl_rloo": _pure_verl,
    "pure_openrlhf_baseline": _pure_openrlhf,
}

CASES = sorted(path for folder in RUNNERS for path in (GOLDEN / folder).glob("case_*.json"))


def _tolerance(meta: Case) -> tuple[float, float]:
    """Relative and absolute tolerance of a case, by `tests/golden/README.md`."""
    if "rtol" in meta:
        return float(meta["rtol"]), float(meta["rtol"]) * 0.1
    return 2e-5, 2e-6


def _is_ragged(rows: list[Any]) -> bool:
    return len({len(row) if isinstance(row, list) else 0 for row in rows}) > 1


def _compare(found: Any, wanted: Any, rtol: float, atol: float, name: str) -> None:
    if isinstance(wanted, list) and any(entry is None for entry in wanted):
        assert list(found) == wanted, name
    elif (
        isinstance(wanted, list) and len({len(e) if isinstance(e, list) else 0 for e in wanted}) > 1
    ):
        for row, expected in zip(found, wanted, strict=True):
            np.testing.assert_allclose(row, expected, rtol=rtol, atol=atol, err_msg=name)
    else:
        expected_array = as_floats(wanted)
        found_array = as_floats(found).reshape(expected_array.shape)
        np.testing.assert_allclose(found_array, expected_array, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_oracle_reproduces_the_reference(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    if str(raw["meta"].get("function", "")).rpartition(":")[2] in LOSS_FUNCTIONS:
        pytest.skip("a loss, not an advantage")
    inputs = {name: _revive(value) for name, value in raw["inputs"].items()}
    case = {"meta": raw["meta"], "inputs": inputs, "outputs": raw["outputs"]}
    found = RUNNERS[path.parent.name](case)
    rtol, atol = _tolerance(raw["meta"])
    rtol = LOOSER.get(f"{path.parent.name}/{path.stem}", rtol)
    compared = 0
    for name, wanted in raw["outputs"].items():
        if name == "error":
            continue
        if name in ("step_group_id", "state_group", "action_group"):
            assert _partition(found[name]) == _partition(wanted), name
        else:
            _compare(found[name], _revive(wanted), rtol, atol, name)
        compared += 1
    assert compared or "error" in raw["outputs"]


def test_every_copied_folder_has_an_oracle() -> None:
    folders = {path.name for path in GOLDEN.iterdir() if path.is_dir()}
    assert set(RUNNERS) <= folders
    assert len(CASES) >= 29
