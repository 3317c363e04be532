"""Checks of the bundled rollouts, with the standard library alone."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parents[1] / "python" / "apportion" / "data" / "rollouts.jsonl"
TURN_FIELDS = {"text", "observation", "anchor", "tokens", "log_probs", "reward"}
END_OF_MESSAGE = 2  # <|im_end|> of the SmolLM2 tokenizer
VOCABULARY = 49152

Trajectory = dict[str, Any]


@pytest.fixture(scope="module")
def trajectories() -> list[Trajectory]:
    with SAMPLE.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def groups(trajectories: list[Trajectory]) -> dict[str, list[Trajectory]]:
    by_group: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        by_group[trajectory["group"]].append(trajectory)
    return by_group


def turns(trajectories: list[Trajectory]) -> list[dict[str, Any]]:
    return [turn for trajectory in trajectories for turn in trajectory["turns"]]


def test_the_file_is_at_most_2_mb() -> None:
    assert SAMPLE.stat().st_size <= 2_000_000


def test_there_are_enough_tasks_rollouts_and_games(groups: dict[str, list[Trajectory]]) -> None:
    assert len(groups) >= 8
    assert all(len(group) == 8 for group in groups.values())
    assert len({group[0]["meta"]["game"] for group in groups.values()}) >= 2


def test_every_line_has_the_schema(trajectories: list[Trajectory]) -> None:
    for trajectory in trajectories:
        assert set(trajectory) == {"group", "trajectory", "outcome", "turns", "meta"}
        assert trajectory["outcome"] in (0.0, 1.0)
        assert 1 <= len(trajectory["turns"]) <= 30
        for turn in trajectory["turns"]:
            assert set(turn) == TURN_FIELDS
            assert turn["text"] and turn["observation"] and turn["anchor"]
            assert math.isfinite(turn["reward"])


def test_names_are_unique(trajectories: list[Trajectory]) -> None:
    names = [trajectory["trajectory"] for trajectory in trajectories]
    assert len(set(names)) == len(names)
    assert all(t["trajectory"].startswith(t["group"] + "/") for t in trajectories)


def test_tokens_are_one_message_with_one_log_prob_each(trajectories: list[Trajectory]) -> None:
    for turn in turns(trajectories):
        assert len(turn["tokens"]) == len(turn["log_probs"]) >= 2
        assert all(0 <= token < VOCABULARY for token in turn["tokens"])
        assert turn["tokens"].index(END_OF_MESSAGE) == len(turn["tokens"]) - 1
        assert all(math.isfinite(value) and value <= 0 for value in turn["log_probs"])


def test_one_text_has_one_tokenization(trajectories: list[Trajectory]) -> None:
    tokens_of: dict[str, list[int]] = {}
    for turn in turns(trajectories):
        assert tokens_of.setdefault(turn["text"], turn["tokens"]) == turn["tokens"]


def test_most_groups_have_both_outcomes(groups: dict[str, list[Trajectory]]) -> None:
    mixed = [g for g, group in groups.items() if len({t["outcome"] for t in group}) == 2]
    assert len(mixed) >= 8 and 2 * len(mixed) > len(groups), mixed


def test_rewards_sum_to_the_final_score(trajectories: list[Trajectory]) -> None:
    for trajectory in trajectories:
        total = math.fsum(turn["reward"] for turn in trajectory["turns"])
        score = trajectory["meta"]["score"]
        # Rewards and score are rounded to 6 digits each.
        assert total == pytest.approx(score, abs=1e-6 * (len(trajectory["turns"]) + 1))
        assert (score >= 1.0) == (trajectory["outcome"] == 1.0), trajectory["trajectory"]


def test_rollouts_of_a_task_share_their_start(groups: dict[str, list[Trajectory]]) -> None:
    for group in groups.values():
        for field in ("observation", "anchor"):
            assert len({t["turns"][0][field] for t in group}) == 1
        for field in ("task", "seed", "params", "model", "temperature"):
            assert len({t["meta"][field] for t in group}) == 1


def test_choices_have_log_probs(trajectories: list[Trajectory]) -> None:
    for trajectory in trajectories:
        choices = trajectory["meta"]["choice_log_probs"]
        assert len(choices) == len(trajectory["turns"])
        assert all(math.isfinite(value) and value <= 0 for value in choices)


def test_most_states_are_shared_between_rollouts(groups: dict[str, list[Trajectory]]) -> None:
    shared = total = 0
    for group in groups.values():
        visitors: dict[str, set[str]] = defaultdict(set)
        for trajectory in group:
            for turn in trajectory["turns"]:
                visitors[turn["anchor"]].add(trajectory["trajectory"])
        for turn in turns(group):
            shared += len(visitors[turn["anchor"]]) > 1
            total += 1
    assert shared / total > 0.5
