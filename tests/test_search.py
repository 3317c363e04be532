"""Asking and telling through the public API: what is asked, and what comes back as it was told."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apportion as ap
from apportion import tree_credit
from apportion.errors import InputError
from apportion.search.data import KINDS, Nodes
from property_settings import examples
from search_answers import WIDTH, answer, noise, same


def test_leaves_say_what_is_asked_and_where() -> None:
    search = ap.Search(2, 100)
    roots = search.select(8)
    assert roots.parent.tolist() == roots.action.tolist() == [-1, -1]
    assert [KINDS[k] for k in roots.kind] == ["expand", "expand"]
    assert len(roots.of("expand")) == 2 and len(roots.of("rollout")) == 0
    search.expand(roots, **answer(roots))
    leaves = search.select(8, per_tree=1)
    flat, offsets = leaves.tokens()
    spans = [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert spans == [[0, a] for a in leaves.action]
    assert [path.tolist() for _, path in leaves.paths()] == [[0, n] for n in leaves.node]
    with pytest.raises(InputError, match="kind: got 'guess'"):
        leaves.of("guess")


def test_tokens_and_rollouts_come_back_as_they_were_told() -> None:
    search = ap.Search(1, 100)
    root = search.select(1)
    search.expand(
        root,
        tokens=[[[1, 2], [3]]],
        child_values=[[0.5, -0.5]],
        rollouts=[[1.0, 0.0, 1.0]],
        rollout_tokens=[[[7], [8, 9], []]],
    )
    flat, offsets = search.tokens()
    assert (flat.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 0, 2, 3])
    rollouts = search.rollouts()
    assert rollouts.reward.tolist() == [1.0, 0.0, 1.0]
    assert rollouts.token_offsets.tolist() == [0, 1, 3, 3]
    nodes = search.nodes()
    assert nodes.value[0] == pytest.approx(2 / 3)
    assert nodes.raw_value.tolist()[1:] == [0.5, -0.5]
    nodes_bytes, payload = search.bytes
    assert nodes_bytes > 3 * 40 and payload >= 4 * 6 + 3 * 24
    assert search.log_probs().shape == (3,) and np.isnan(search.log_probs()).all()
    assert np.isnan(rollouts.log_probs).all()
    assert search.child_scores()[1].tolist() == [0, 0, 0, 0]


def test_log_probs_and_scores_lie_beside_tokens_and_come_back() -> None:
    """Of edges and rollouts, told or not; in a search that is resumed too."""
    search = ap.Search(2, 100)
    search.expand(
        search.select(2),
        tokens=[[[1, 2], [3]], [[4]]],
        token_log_probs=[[[-0.5, -2.0], []], [[-0.1]]],
        child_values=[[0.5, 0.0], [1.0]],
        child_scores=[[[0.0, 1.0], []], [[1.0]]],
        rollouts=[[1.0], [0.0]],
        rollout_tokens=[[[7, 8]], [[9]]],
        rollout_log_probs=[[[-0.25, -0.75]], [[-4.0]]],
    )
    log_probs = search.log_probs()
    assert log_probs.dtype == np.float32
    np.testing.assert_array_equal(log_probs, np.float32([-0.5, -2.0, np.nan, -0.1]))
    assert search.rollouts().log_probs.tolist() == [-0.25, -0.75, -4.0]
    scores, offsets = search.child_scores()
    assert (scores.tolist(), offsets.tolist()) == ([0.0, 1.0, 1.0], [0, 0, 2, 2, 2, 3])
    # Packed with the tokens: each log-prob stays with its token.
    tokens, starts = search.tokens()
    packed = tree_credit.pack([-1, 0, 0, -1, 3], starts)
    assert packed.gather(tokens).tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(packed.gather(log_probs), log_probs)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    def search(**given: Any) -> ap.Search:
        found = ap.Search(rule="puct", **given)
        found.run(answer, batch_size=4)
        return found

    plain = {"num_roots": 2, "max_nodes": 60, "num_simulations": 8, "gamma": 0.5, "seed": 3}
    numpy = {
        name: np.float32(value) if name == "gamma" else np.int64(value)
        for name, value in plain.items()
    }
    same(search(**plain), search(**numpy, deadline=np.float64(60), c_puct=np.float32(1.25)))
    logged = ap.Search(np.int64(2), max_nodes=np.uint16(60))
    logged.log_to(tmp_path)
    logged.run(answer, batch_size=4)
    logged.close()
    same(logged, ap.Search.read(tmp_path))
    ap.Search(1, 10, rule="beam", n=np.int32(8))


def test_keys_may_have_all_64_bits() -> None:
    def run(keys: Any) -> Nodes:
        search = ap.Search(1, 50, num_simulations=6, merge=True)
        search.expand(search.select(1), values=[0.5], keys=keys)
        while leaves := search.select(1):
            search.expand(leaves, values=np.full(len(leaves), 0.25))
        return search.nodes()

    big = 2**63 + 5
    want = run([[-(2**63) + 5, 7, -(2**63) + 5]])
    for keys in ([[big, 7, big]], np.array([[big, 7, big]], dtype=np.uint64)):
        found = run(keys)
        np.testing.assert_array_equal(found.state, want.state)
        assert found.state.tolist() == [0, 1, 2, 1]
    with pytest.raises(InputError, match=r"keys\[0\]\[1\]: got .*, expected an integer of 64 bits"):
        run([[0, 2**64, 0]])


@examples
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 4), st.sampled_from([None, 1.0]))
def test_order_of_answers_and_size_of_batches_change_nothing(
    key: int, batch: int, per_tree: int, loss: float | None
) -> None:
    options: dict[str, Any] = {"num_simulations": 25, "virtual_loss": loss, "seed": 1}
    one, other = (ap.Search(4, 500, **options) for _ in range(2))
    one.run(answer, batch_size=8, per_tree=per_tree)
    rng, held = noise(key), []
    while True:
        held += list(range(len(leaves := other.select(batch, per_tree=per_tree))))[:0]
        held += [leaves[i] for i in range(len(leaves))]
        if not held:
            break
        rng.shuffle(held)
        for leaf in held[: (count := 1 + int(rng.integers(len(held))))]:
            other.expand(leaf, **answer(leaf))
        held = held[count:]
    same(one, other)


def test_arrival_order_takes_answers_at_once() -> None:
    search = ap.Search(1, 300, num_simulations=20, tell_order="arrival")
    search.expand(search.select(1), values=[0.0], children=8)
    leaves = search.select(4)
    search.expand(leaves[2:3], values=[1.0], children=8)
    assert search.simulations.tolist() == [1]
    assert len(search.select(4)) == 1, "three of four are still under way"
    search.fail(leaves[:2])


def test_merged_states_are_reported() -> None:
    search = ap.Search(1, 200, merge=True, num_simulations=30)

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        keys = [[(int(d) + 1) * 10 + i for i in range(WIDTH)] for d in leaves.depth]
        return {"values": np.zeros(len(leaves)), "keys": keys}

    search.run(evaluate, batch_size=1)
    nodes = search.nodes()
    assert (nodes.state != np.arange(len(nodes.state))).any()
    homes = nodes.state[nodes.state != np.arange(len(nodes.state))]
    assert (nodes.state[homes] == homes).all()
