"""A search packed for training: its paths, its prompts, and the log-probs that a model reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import apportion as ap

torch = pytest.importorskip("torch")

from small_transformer import VOCABULARY, Transformer  # noqa: E402


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
