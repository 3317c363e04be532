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

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 23, 16, 2, 2, 64


class Transformer(torch.nn.Module):
    """A small decoder with position ids and an attention mask of the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.positions = torch.nn.Embedding(LONGEST, WIDTH)
        layer = {
            "qkv": lambda: torch.nn.Linear(WIDTH, 3 * WIDTH),
            "out": lambda: torch.nn.Linear(WIDTH, WIDTH),
            "up": lambda: torch.nn.Linear(WIDTH, 4 * WIDTH),
            "down": lambda: torch.nn.Linear(4 * WIDTH, WIDTH),
            "norm": lambda: torch.nn.LayerNorm(WIDTH),
            "second": lambda: torch.nn.LayerNorm(WIDTH),
        }
        made = [
            torch.nn.ModuleDict({k: make() for k, make in layer.items()}) for _ in range(LAYERS)
        ]
        self.layers = torch.nn.ModuleList(made)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Any, positions: Any, mask: Any) -> Any:
        """Log-probabilities of the next token, `(tokens, vocabulary)`."""
        x = self.tokens(ids) + self.positions(positions)
        for layer in self.layers:
            parts = layer["qkv"](layer["norm"](x)).view(len(ids), 3, HEADS, -1).permute(1, 2, 0, 3)
            query, key, value = parts
            seen = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask
            )
            x = x + layer["out"](seen.permute(1, 0, 2).reshape(len(ids), WIDTH))
            x = x + layer["down"](torch.relu(layer["up"](layer["second"](x))))
        return torch.log_softmax(self.head(x), dim=-1)


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


def searched(rule: str = "puct") -> ap.Search:
    """Three trees with tokens, log-probs and rollouts; of the last one nothing is told."""
    rng = np.random.default_rng(3)
    search = ap.Search(3, 60, rule=rule, num_simulations=6, max_depth=6)

    def spans(count: int) -> list[Any]:
        return [rng.integers(0, VOCABULARY, rng.integers(0, 4)) for _ in range(count)]

    while leaves := search.select(4):
        search.fail(leaves[leaves.tree == 2])
        for row in np.flatnonzero(leaves.tree < 2):
            leaf = leaves[int(row)]
            rollouts, log_probs = spans(2), [[-0.1 * t for t in range(3)]] * 2
            told: dict[str, Any] = {"rollouts": [rng.random(2)], "rollout_tokens": [rollouts]}
            told["rollout_log_probs"] = [[log_probs[i][: len(rollouts[i])] for i in (0, 1)]]
            if leaf.of("expand"):
                told |= {"values": [0.5], "tokens": [spans(3)]}
            search.expand(leaf, **told)
    return search


@pytest.mark.parametrize(("rule", "method", "mode"), [
    ("puct", "vineppo", "visit"), ("omegaprm", "spo", "leaf"), ("treerl", "treerl", "leaf"),
])  # fmt: skip
def test_a_search_is_packed_with_its_prompts_and_rollouts(
    rule: str, method: str, mode: str
) -> None:
    """Each token comes after those of its path, and a model reads there what it would alone."""
    search = searched(rule)
    credit = search.credit(method, value_mode=mode)
    prompts = [[1, 2], torch.tensor([3]), [4]]
    packed = search.pack(credit, prompts)
    nodes, rollouts = search.nodes(), search.rollouts()
    (flat, spans), starts = search.tokens(), nodes.offsets[:-1]

    def text(row: int, tree: int) -> list[int]:
        """Tokens from the root to a node, its prompt among them."""
        own = flat[spans[row] : spans[row + 1]].tolist()
        if nodes.parent[row] < 0:
            return [int(token) for token in prompts[tree]]
        return [*text(int(nodes.parent[row] + starts[tree]), tree), *own]

    # What is in it are prompts, visited nodes and rollouts, and what each of these reads.
    wanted: list[tuple[int, ...]] = []
    for tree in range(3):
        for row in range(*nodes.offsets[tree : tree + 2].tolist()):
            if nodes.visits[row] and (nodes.valued[row] or not nodes.terminal[row]):
                whole = text(row, tree)
                own = int(spans[row + 1] - spans[row]) if nodes.parent[row] >= 0 else 0
                wanted += [(tree, *whole[: len(whole) - k]) for k in range(own)]
        for i in range(*rollouts.offsets[tree : tree + 2].tolist()):
            if rollouts.mark[i] == 2**32 - 1:
                continue
            own = rollouts.tokens[slice(*rollouts.token_offsets[i : i + 2])].tolist()
            before = text(int(rollouts.node[i] + starts[tree]), tree)
            wanted += [(tree, *before, *own[: k + 1]) for k in range(len(own))]
    got = []
    for place in range(len(packed)):
        chain = [place]
        while packed.parent[chain[-1]] >= 0:
            chain.append(int(packed.parent[chain[-1]]))
        got.append((int(packed.tree[place]), *packed.tokens[chain[::-1]].tolist()))
    trained = [one for one, mask in zip(got, packed.loss_mask, strict=True) if mask]
    assert sorted(trained) == sorted(wanted) and len(got) == len(trained) + 3
    np.testing.assert_allclose(packed.advantages.sum(), credit.advantages.sum())
    assert np.isnan(packed.log_probs[packed.loss_mask == 0]).all()
    assert not packed.advantages[packed.loss_mask == 0].any()
    counted = nodes.visits > 0
    first = int(np.flatnonzero(packed.tree == 0)[0])
    leaves = rollouts.offsets[1] - (rollouts.mark[: rollouts.offsets[1]] == 2**32 - 1).sum()
    assert counted.any() and packed.paths[first] >= leaves

    torch.manual_seed(0)
    model = Transformer().double()
    with torch.no_grad():
        position, seen = (torch.from_numpy(of) for of in (packed.position, packed.attention_mask()))
        output = model(torch.from_numpy(packed.tokens), position, seen)
        for place, (_, *tokens) in enumerate(got):
            causal = torch.ones(len(tokens), len(tokens)).tril().bool()
            alone = model(torch.tensor(tokens), torch.arange(len(tokens)), causal)[-1]
            torch.testing.assert_close(output[place], alone, rtol=1e-10, atol=1e-12)


def test_a_search_that_cannot_be_packed() -> None:
    search, empty = searched(), ap.Search(1, 10)
    credit = search.credit("spo", value_mode="leaf")
    for prompts, words in (
        ([[1]], "prompts: got 1, expected 3, one for each tree"),
        ([[1], [[2]], []], r"prompts\[1\]: got shape \(1, 1\), expected one dimension"),
        ([[1], ["a"], []], r"prompts\[1\]\[0\]: got 'a'"),
    ):
        with pytest.raises(ap.ApportionError, match=words):
            search.pack(credit, prompts)
    with pytest.raises(ap.InputError, match="pack: the search was told no tokens"):
        empty.pack(credit, [[1]])
    search = ap.Search(1, 10)
    search.expand(search.select(1), values=[0.0], tokens=[[[1]]])
    with pytest.raises(ap.InputError, match=r"credit: got .* tokens, expected 1, credit of this"):
        search.pack(credit, [[1]])


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
