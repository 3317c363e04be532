"""Against mctx, OpenSpiel and LLM-reasoners, whichever are installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forests import STATES, searched, table


def bench_mctx(compare: Callable[..., None]) -> None:
    """MuZero's rule with the same tables, compiled, on the processor."""
    jax = pytest.importorskip("jax")
    mctx = pytest.importorskip("mctx")
    jnp = jax.numpy
    trees, simulations, children = 256, 100, 8
    answers = table(children)
    values, logits = jnp.array(answers.values), jnp.log(jnp.array(answers.priors))

    def step(params: Any, key: Any, action: Any, state: Any) -> Any:
        state = (state * 31 + action * 7 + 1) % STATES
        output = mctx.RecurrentFnOutput(
            reward=jnp.zeros(trees),
            discount=jnp.ones(trees),
            prior_logits=logits[state],
            value=values[state],
        )
        return output, state

    @jax.jit
    def search(key: Any) -> Any:
        state = jnp.arange(trees) % STATES
        root = mctx.RootFnOutput(prior_logits=logits[state], value=values[state], embedding=state)
        return mctx.muzero_policy(
            None, key, root, step, num_simulations=simulations, dirichlet_fraction=0.0
        ).action_weights

    compare(
        f"muzero, {trees} trees x {simulations} x {children} children",
        "mctx, JAX on the processor",
        lambda: searched(answers, trees, simulations, 1, trees, rule="muzero"),
        lambda: np.asarray(search(jax.random.PRNGKey(0))),
        fork=False,
    )


def bench_openspiel(compare: Callable[..., None]) -> None:
    """Its C++ searcher on connect four, which also plays one random game a simulation."""
    pyspiel = pytest.importorskip("pyspiel")
    simulations, answers = 10_000, table(7)
    game = pyspiel.load_game("connect_four")
    evaluator = pyspiel.RandomRolloutEvaluator(1, 0)
    policy = pyspiel.ChildSelectionPolicy.UCT

    def theirs() -> Any:
        bot = pyspiel.MCTSBot(game, evaluator, 1.4, simulations, 1000, False, 0, False, policy)
        return bot.mcts_search(game.new_initial_state())

    compare(
        f"uct, 1 tree x {simulations:,} x 7 children",
        "OpenSpiel, C++, with a playout",
        lambda: searched(answers, 1, simulations, 64, 64, rule="uct"),
        theirs,
    )


def bench_llm_reasoners(compare: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its search imports torch and transformers for annotations; names stand in for them."""
    stand_in = types.ModuleType("transformers")
    stand_in.StoppingCriteriaList = list  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", types.ModuleType("torch"))
        patch.setitem(sys.modules, "transformers", stand_in)
        reasoners = pytest.importorskip("reasoners")
        mcts = pytest.importorskip("reasoners.algorithm.mcts")
    simulations, children = 1000, 8
    answers = table(children)

    class World(reasoners.WorldModel):  # type: ignore[misc]
        def init_state(self) -> int:
            return 0

        def step(self, state: int, action: int) -> Any:
            return (state * 31 + action * 7 + 1) % STATES, {}

        def is_terminal(self, state: int) -> bool:
            return False

    class Config(reasoners.SearchConfig):  # type: ignore[misc]
        def get_actions(self, state: int) -> range:
            return range(children)

        def fast_reward(self, state: int, action: int) -> Any:
            return float(answers.priors[state, action]), {}

        def reward(self, state: int, action: int, **kwargs: Any) -> Any:
            return float(answers.values[state]), {}

    def theirs() -> Any:
        search = mcts.MCTS(n_iters=simulations, depth_limit=8, disable_tqdm=True)
        return search(World(), Config())

    compare(
        f"uct, 1 tree x {simulations:,} x {children} children",
        "LLM-reasoners",
        lambda: searched(answers, 1, simulations, 64, 64, rule="uct", max_depth=8),
        theirs,
    )
