"""A packed forest gives a transformer's log-probs of every path, each prefix read once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import tree_credit
from oracles.trees import path

torch = pytest.importorskip("torch")

from small_transformer import LONGEST, VOCABULARY, Transformer  # noqa: E402


def forest(seed: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Parents, offsets and tokens; every root has a prompt."""
    rng = np.random.default_rng(seed)
    parents = [-1, 0, 0, 1, 1, 1, 2, -1, 4, 7, 7, 9]
    offsets = np.cumsum([0, *rng.integers(1, 5, len(parents))])
    return parents, offsets, rng.integers(0, VOCABULARY, offsets[-1])


@pytest.mark.parametrize("seed", range(3))
def test_log_probs_and_gradients_packed_against_unpacked(seed: int) -> None:
    torch.manual_seed(seed)
    model = Transformer().double()
    parents, offsets, tokens = forest(seed)
    leaves = [n for n in range(len(parents)) if n not in parents]
    scores = np.full(len(parents), np.nan)
    scores[leaves] = np.random.default_rng(seed).integers(0, 2, len(leaves))
    mask = np.ones(len(tokens), dtype=int)
    for root in (n for n, parent in enumerate(parents) if parent < 0):
        mask[offsets[root] : offsets[root + 1]] = 0
    rollouts = ap.Rollouts.from_tree(
        parents, token_offsets=offsets, mask=mask, outcome_rewards=scores
    )
    credit = ap.credit("tree_grpo", rollouts, mode="tree_diff")
    credit_of = credit.tokens(dtype="float64")

    packed = tree_credit.pack(parents, offsets)
    ids = torch.from_numpy(packed.gather(tokens))
    seen = torch.from_numpy(packed.attention_mask())
    output = model(ids, torch.from_numpy(packed.position), seen)
    has_parent = torch.from_numpy(packed.parent >= 0)
    before = torch.from_numpy(packed.parent)[has_parent]
    got = torch.zeros(len(tokens), dtype=torch.float64)
    got[has_parent] = output[before].gather(1, ids[has_parent][:, None])[:, 0]
    # A token that several paths share counts once a path.
    weight = torch.from_numpy(credit.extras["leaf_counts"][1][packed.node])
    loss = -(got * weight * torch.from_numpy(packed.gather(credit_of))).sum()
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    assert len(ids) == len(tokens), "each prefix stands once"

    model.zero_grad()
    unpacked_loss = torch.zeros((), dtype=torch.float64)
    place = np.empty(len(tokens), dtype=int)
    place[packed.source] = np.arange(len(tokens))
    read = 0
    for leaf in leaves:
        own = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in path(parents, leaf)])
        row = torch.from_numpy(tokens[own])
        causal = torch.ones(len(own), len(own)).tril().bool()
        output = model(row, torch.arange(len(own)), causal)
        want = output[:-1].gather(1, row[1:, None])[:, 0]
        torch.testing.assert_close(got[place[own[1:]]], want, rtol=1e-10, atol=1e-12)
        unpacked_loss = unpacked_loss - (want * torch.from_numpy(credit_of[own[1:]])).sum()
        read += len(own)
    assert read > len(tokens), "the forest shares prefixes"
    unpacked_loss.backward()
    torch.testing.assert_close(loss, unpacked_loss, rtol=1e-10, atol=1e-10)
    for packed_grad, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(packed_grad, parameter.grad, rtol=1e-8, atol=1e-10)


def test_a_transformers_model_reads_it_too() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LONGEST,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).double().eval()
    parents, offsets, tokens = forest(0)
    packed = tree_credit.pack(parents, offsets)
    seen = torch.from_numpy(packed.attention_mask())
    bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(packed.gather(tokens))[None],
            position_ids=torch.from_numpy(packed.position)[None],
            attention_mask=bias[None, None],
        ).logits[0]
        place = np.empty(len(tokens), dtype=int)
        place[packed.source] = np.arange(len(tokens))
        for leaf in [n for n in range(len(parents)) if n not in parents]:
            own = np.concatenate(
                [np.arange(offsets[n], offsets[n + 1]) for n in path(parents, leaf)]
            )
            alone = model(input_ids=torch.from_numpy(tokens[own])[None]).logits[0]
            torch.testing.assert_close(output[place[own]], alone, rtol=1e-6, atol=1e-8)


def test_positions_parents_and_intervals() -> None:
    parents, offsets, tokens = forest(1)
    packed = tree_credit.pack(parents, offsets)
    sees = packed.attention_mask()
    for query in range(len(tokens)):
        chain = []
        at = query
        while at >= 0:
            chain.append(at)
            at = int(packed.parent[at])
        assert sorted(chain) == np.flatnonzero(sees[query]).tolist()
        assert packed.position[query] == len(chain) - 1
    assert sorted(packed.source) == list(range(len(tokens)))
    for first, second in itertools.pairwise(np.flatnonzero(packed.parent < 0)):
        assert not sees[second:, first].any(), "trees do not see each other"


def test_packing_in_kind_and_wrong_input() -> None:
    packed = tree_credit.pack([-1, 0], [0, 1, 3])
    assert packed.gather(torch.tensor([5, 6, 7])).tolist() == [5, 6, 7]
    assert len(tree_credit.pack([], [0])) == 0
    with pytest.raises(ap.InputError, match=r"flat: got shape \(2,\), expected \(3,\)"):
        packed.gather(np.zeros(2))
    with pytest.raises(ap.InputError, match=r"token_offsets: got 1 .*expected 2"):
        tree_credit.pack([-1, 0], [0, 1])
    with pytest.raises(ap.InputError, match=r"token_offsets\[2\]: got 0"):
        tree_credit.pack([-1, 0], [0, 1, 0])


def test_credit_of_segments_at_their_tokens() -> None:
    values, offsets = [0.5, -1.0, 2.0, 3.0], [0, 2, 2, 5, 6]

    def at(**how: Any) -> list[float]:
        return tree_credit.to_tokens(values, offsets, **how).tolist()

    assert at() == [0.5, 0.5, 2, 2, 2, 3]
    assert at(on="last") == [0, 0.5, 0, 0, 2, 3]
    log_probs = np.log([0.95, 0.5, 0.9, 0.1, np.nan, 0.89])
    assert at(on="unlikely", log_probs=log_probs) == [0, 0.5, 0, 2, 0, 3]
    assert at(on="unlikely", log_probs=log_probs, max_prob=0.3) == [0, 0, 0, 2, 0, 0]
    entropies = torch.tensor([0.0, 1.0, 2.0, 0.5, 0.9, np.nan])
    assert at(on="uncertain", entropies=entropies, min_entropy=0.8) == [0, 0.5, 2, 0, 2, 0]
    tensor = tree_credit.to_tokens(torch.tensor(values), offsets, on="last")
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    for how, words in (
        ({"on": "first"}, "on: got 'first', expected 'all', 'last'"),
        ({"on": "unlikely"}, "on: got 'unlikely', expected log_probs with it"),
        ({"on": "uncertain", "entropies": [0] * 6}, "expected min_entropy with it"),
        ({"on": "unlikely", "log_probs": [0.0]}, "log_probs: got 1 values, expected 6"),
    ):
        with pytest.raises(ap.ApportionError, match=words):
            at(**how)
    for wrong in ([0, 2, 2, 5], [1, 2, 2, 5, 6], [0, 3, 2, 5, 6]):
        with pytest.raises(ap.InputError, match=r"values: got shape|token_offsets: expected"):
            tree_credit.to_tokens(values, wrong)


def test_what_is_gathered_has_a_value_a_token() -> None:
    packed = tree_credit.pack([-1, 0, 0], [0, 2, 3, 5])
    assert packed.gather(torch.arange(5)).tolist() == packed.source.tolist()
    for wrong in (torch.arange(9), torch.arange(2), np.arange(4), torch.zeros(5, 2)):
        with pytest.raises(ap.InputError, match=r"flat: got shape \(.*\), expected \(5,\)"):
            packed.gather(wrong)
