"""The table from folders of cases of OmegaPRM and its kin to calls of the public API.

A token stands for whatever the case counts: words, characters, list items. Contents are
not in the cases, so tokens are numbered through; only the ends of steps are alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import apportion as ap
from apportion.search import rules

Case = dict[str, Any]
Outputs = dict[str, Any]
STEP_END = 0


class Pool:
    """A pool search of one tree whose rollouts are given call by call."""

    def __init__(self, search: ap.Search) -> None:
        self.search = search
        self.fresh: Iterator[int] = itertools.count(1)
        self.asked: list[int] = []  # states in the order in which they were estimated

    def answer(self, prefix: int, lengths: list[list[int]], correct: list[bool]) -> int | None:
        """Tells the rollouts of the next call; rollouts are lengths of steps.

        `None` when the search asks nothing more; otherwise the length of the state's prefix.
        """
        leaves = self.search.select(1)
        if not leaves:
            return None
        tokens, _ = leaves.tokens()
        assert len(tokens) == prefix, (len(tokens), prefix)
        assert leaves.want[0] == len(correct)
        self.asked.append(int(leaves.node[0]))
        rollouts = [[self.step(length) for length in steps] for steps in lengths]
        flat = [[token for step in rollout for token in step] for rollout in rollouts]
        rewards = [[float(right) for right in correct]]
        self.search.expand(leaves, rollouts=rewards, rollout_tokens=[flat])
        return prefix

    def step(self, length: int) -> list[int]:
        return [*itertools.islice(self.fresh, length - 1), STEP_END]

    def plain(self, length: int) -> list[int]:
        return list(itertools.islice(self.fresh, length))

    def lengths(self) -> list[int]:
        """Tokens from the root to each node."""
        nodes, (_, offsets) = self.search.nodes(), self.search.tokens()
        own = np.diff(offsets)
        total = own.copy()
        for node in range(1, len(own)):
            total[node] += total[nodes.parent[node]]
        return total.tolist()

    def over(self) -> bool:
        return len(self.search.select(1)) == 0


def hyper(case: Case, name: str) -> Any:
    return case["meta"]["hyperparameters"][name]


def options(case: Case, scale: str) -> dict[str, Any]:
    return {
        "alpha": hyper(case, "alpha"),
        "beta": hyper(case, "beta"),
        "length_scale": hyper(case, scale),
    }


def scores(case: Case) -> Outputs:
    """OpenR's `Q` and `U` of single rows."""
    names = ("mc", "rollout_len", "visits", "total_visits")
    columns = [[row[name] for row in case["inputs"]["rows"]] for name in names]
    q, u = rules.pool_scores(*columns, **options(case, "L"), c_puct=hyper(case, "c_puct"))
    got = [{"Q": a, "U": b, "score": a + b} for a, b in zip(q, u, strict=True)]
    return {"rows": lambda want: alike(got, want)}


def alike(got: Any, want: Any) -> bool:
    """Equal, numbers to 1e-9."""
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(alike(got[k], want[k]) for k in want)
    if isinstance(want, list):
        return len(got) == len(want) and all(map(alike, got, want))
    if isinstance(want, float):
        return bool(np.isclose(got, want, rtol=1e-9, atol=1e-12))
    return bool(got == want)


def openr(case: Case) -> Outputs:
    if "rows" in case["inputs"]:
        return scores(case)
    calls = case["inputs"]["lm_calls_in_order"]
    search = ap.Search(
        1,
        10**6,
        rule="omegaprm",
        compat="openr",
        num_simulations=hyper(case, "search_limit"),
        rollout_budget=hyper(case, "rollout_budget"),
        rollouts=hyper(case, "k"),
        step_token=STEP_END,
        c_puct=hyper(case, "c_puct"),
        **options(case, "L"),
    )
    pool, question = Pool(search), calls[0]["prefix_words"]
    for call in calls:
        steps = [rollout["steps_words"] for rollout in call["rollouts"]]
        right = [rollout["correct"] for rollout in call["rollouts"]]
        if pool.answer(call["prefix_words"] - question, steps, right) is None:
            break
    return openr_outputs(pool, question)


def openr_outputs(pool: Pool, question: int) -> Outputs:
    nodes, rollouts, lengths = pool.search.nodes(), pool.search.rollouts(), pool.lengths()
    words = np.diff(rollouts.token_offsets)
    names: dict[int, int] = {}
    states: list[dict[str, Any]] = []
    for node in pool.asked:
        names[node] = len(states)
        prefix = question + lengths[node]
        own = np.flatnonzero(rollouts.node == node)
        right = own[rollouts.reward[own] > 0]
        mc = float(nodes.q[node])
        parent = names[int(nodes.parent[node])] if node else -1
        states.append(
            {
                "parent": parent,
                "N": 1,
                "MC": mc,
                "prefix_words": prefix,
                "total": len(own),
                "correct": len(right),
            }
        )
        for rollout in right:  # each becomes a state of its own there
            leaf = {"parent": names[node], "N": 0, "MC": 1.0, "total": 0, "correct": 0}
            states.append({**leaf, "prefix_words": int(prefix + words[rollout])})
    selected, estimated = [], 1
    for rollout, good, bad in pool.search.bisections(0):
        node = int(rollouts.node[rollout])
        selected.append(
            {
                "state": names[node],
                "rollout_words": int(words[rollout]),
                "state_visits": 1,
                "mc": float(nodes.q[node]),
                "sum_visits": estimated,
            }
        )
        estimated += len(good) + len(bad)
    return {
        "total_rollouts": len(rollouts.node),
        "searches": len(selected),
        "selected": lambda want: alike(selected, want),
        "states": lambda want: alike(states, want),
    }


def paper(case: Case) -> Outputs:
    calls = case["inputs"]["rollout_calls_in_order"]
    searches = hyper(case, "searches")
    search = ap.Search(
        1,
        10**6,
        rule="omegaprm",
        num_simulations=searches,
        rollouts=hyper(case, "rollouts"),
        min_span=hyper(case, "step_token_threshold"),
        c_puct=hyper(case, "c_puct"),
        max_requests=hyper(case, "max_calls"),
        **options(case, "length_scale"),
    )
    pool = Pool(search)
    for call in calls:
        lengths = [[rollout["len"]] for rollout in call["rollouts"]]
        right = [rollout["correct"] for rollout in call["rollouts"]]
        if pool.answer(call["prefix_len"], lengths, right) is None:
            break
    pool.over()  # the last search ends without a further question
    return paper_outputs(pool, case, searches)


def paper_outputs(pool: Pool, case: Case, limit: int) -> Outputs:
    nodes, rollouts, lengths = pool.search.nodes(), pool.search.rollouts(), pool.lengths()
    words = np.diff(rollouts.token_offsets)
    found = pool.search.bisections(0)
    visits = {int(r): 0 for r in rollouts.node}
    events: list[dict[str, Any]] = []
    states = [state(0, 0, nodes, lengths)]
    names, asked = {0: 0}, iter(pool.asked[1:])
    edges: dict[tuple[int, int], dict[str, Any]] = {}
    for number, (rollout, good, bad) in enumerate(found):
        start = int(rollouts.node[rollout])
        end = {"id": len(states), "prefix_len": int(lengths[start] + words[rollout]), "mc": 0.0}
        states.append({**end, "visits": 0, "src": "terminal_answer", "in_tree": False})
        probes = sorted(set(good) | set(bad))
        for node in probes:
            if nodes.terminal[node]:
                names[node] = end["id"]
            elif node not in names:
                assert next(asked) == node
                names[node] = len(states)
                states.append(state(names[node], node, nodes, lengths))
        q, u = rules.pool_scores(
            [nodes.q[start]],
            [words[rollout]],
            [visits[start]],
            [number],
            c_puct=hyper(case, "c_puct"),
            **options(case, "length_scale"),
        )
        visits[start] += 1
        states[names[start]]["visits"] += 1
        index = int(np.flatnonzero(rollouts.node == start).tolist().index(rollout))
        select = {"selected_state": names[start], "rollout_index": index}
        events.append({**select, "Q": float(q[0]), "U": float(u[0])})
        path = [names[node] for node in (start, *good, bad[-1])]
        span = states[path[-1]]["prefix_len"] - states[path[-2]]["prefix_len"]
        ends = {"positive_state_id": path[-2], "negative_state_id": path[-1]}
        events.append({"path_state_ids": path, **ends, "boundary_tokens": span})
        for parent, child in itertools.pairwise(path):
            action = states[child]["prefix_len"] - states[parent]["prefix_len"]
            edges.setdefault(
                (parent, child),
                {
                    "parent_id": parent,
                    "child_id": child,
                    "action_tokens": action,
                    "single_step": action < hyper(case, "step_token_threshold"),
                    "mc": states[child]["mc"],
                },
            )
        for one in path:
            states[one]["in_tree"] = True
    return {
        "status": lambda want: want != "search_limit" or len(found) == limit,
        "model_calls": len(pool.asked),
        "searches": len(found),
        "events": lambda want: alike(events, want),
        "edges": lambda want: alike(list(edges.values()), want),
        "states": lambda want: alike(states, want),
    }


def state(name: int, node: int, nodes: ap.Nodes, lengths: list[int]) -> dict[str, Any]:
    return {
        "id": name,
        "prefix_len": lengths[node],
        "mc": float(nodes.q[node]),
        "visits": 0,
        "src": "monte_carlo",
        "in_tree": False,
    }


def rearter(case: Case) -> Outputs:
    log = case["outputs"]["log"]
    k = hyper(case, "rollouts")
    search = ap.Search(
        1,
        10**6,
        rule="rearter",
        num_simulations=len(log),
        rollouts=k,
        c_puct=hyper(case, "c"),
        **options(case, "max_length"),
    )
    pool, items = Pool(search), {}
    probes = [probe for entry in log for probe in entry["probes"]]
    texts = case["inputs"]["root_rollouts"] + probes
    for start in range(0, len(texts), k):
        leaves = search.select(1)
        if not leaves:
            break
        call = texts[start : start + k]
        told = [pool.plain(len(text)) for text in call]
        rewards = [[float(text[-1] == "ok") for text in call]]
        search.expand(leaves, rollouts=rewards, rollout_tokens=[told])
        items.update({start + i: text for i, text in enumerate(call)})
    pool.over()
    nodes, rollouts, lengths = search.nodes(), search.rollouts(), pool.lengths()
    names, visits, marked = {0: 0}, {0: 0}, set()
    starts, entries = {0: 0}, []
    for number, (rollout, good, bad) in enumerate(search.bisections(0)):
        node = int(rollouts.node[rollout])
        q, u = rules.pool_scores(
            [nodes.q[node]],
            [len(items[rollout])],
            [visits[node]],
            [number],
            c_puct=hyper(case, "c"),
            **options(case, "max_length"),
        )
        entry = {"node": names[node], "rollout": items[rollout], "score": float(q[0] + u[0])}
        mcs = {"expanded_mc": good, "leaf_mc": bad}
        entries.append({**entry, **{n: [float(nodes.q[i]) for i in s] for n, s in mcs.items()}})
        visits[node] += 1
        marked.add(rollout)
        for one in good:
            names[one], visits[one], starts[one] = len(names), 0, lengths[node]
    final = [
        {
            "prefix_items": lengths[node] - starts[node],
            "mc": float(nodes.q[node]),
            "visits": visits[node],
            "visited": [int(r) in marked for r in np.flatnonzero(rollouts.node == node)],
        }
        for node in names
    ]

    def without_probes(want: list[dict[str, Any]]) -> bool:
        asked = sum(len(entry["probes"]) for entry in want)
        kept = [{k: v for k, v in entry.items() if k != "probes"} for entry in want]
        return alike(entries, kept) and len(rollouts.node) == asked + k

    return {"log": without_probes, "nodes": lambda want: alike(final, want)}


POOL_REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "omegaprm_openr": openr,
    "omegaprm_paper_aligned": paper,
    "omegaprm_rearter": rearter,
}
