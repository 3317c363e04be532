"""What must not change the policy loss: layout, micro-batches, ranks, padding, how credit comes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import apportion as ap  # noqa: E402
from apportion.kernels.reference.aggregate import MODES  # noqa: E402
from apportion.kernels.reference.batch import Spans  # noqa: E402
from loss_batches import BY_BATCH, LOSSES, ROWS, WIDTH, batch, extras, prompt_counts, run, slope  # noqa: E402


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"token-sum"}))
@pytest.mark.parametrize("name", sorted(set(LOSSES) - BY_BATCH))
def test_micro_batches_add_up(name: str, mode: str) -> None:
    """Given counts of the whole batch, no split into micro-batches changes the loss."""
    inputs = {**batch(5), **extras(5)}
    valid = inputs["mask"]
    counts = {
        "num_tokens": float(valid.sum()),
        "num_sequences": float(valid.any(-1).sum()),
        "scale_factor": 32.0,
    }
    inputs |= prompt_counts(valid)
    options = {"loss": name, "loss_agg_mode": mode, **counts}
    whole, _ = run(inputs, **options)
    alone, _ = run(inputs, loss=name, loss_agg_mode=mode, scale_factor=32.0, count_rows="valid")
    assert whole.item() == pytest.approx(alone.item(), rel=1e-12)
    grad = slope(whole, inputs["log_probs"])
    for split in ([2, 3], [1, 1, 3], [4, 1]):
        pieces = {k: v.split(split) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        same = {k: v for k, v in inputs.items() if not isinstance(v, torch.Tensor)}
        parts = [
            run({**same, **{k: v[i] for k, v in pieces.items()}}, **options)[0]
            for i in range(len(split))
        ]
        total = sum(parts)
        assert total.item() == pytest.approx(whole.item(), rel=1e-12)
        np.testing.assert_allclose(slope(total, inputs["log_probs"]), grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_outside_the_mask_reaches_nothing(name: str) -> None:
    inputs = {**batch(6), **extras(6)}
    options: dict[str, Any] = {"loss": name, "top_entropy": 0.8}
    if "clip_scale" in ap.losses()[name].options:
        inputs["clip_scale"] = torch.ones(ROWS, WIDTH, dtype=torch.float64)
    poisoned = {}
    for key, value in inputs.items():
        poisoned[key] = value
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            poisoned[key] = value.detach().masked_fill(~inputs["mask"], math.nan)
    poisoned["log_probs"].requires_grad_()
    clean, dirty = [
        run(given, **options, generator=torch.Generator().manual_seed(1))
        for given in (inputs, poisoned)
    ]
    assert clean[0].item() == dirty[0].item()
    assert {k: v.item() for k, v in clean[1].items()} == {k: v.item() for k, v in dirty[1].items()}
    grads = slope(clean[0], inputs["log_probs"]), slope(dirty[0], poisoned["log_probs"])
    np.testing.assert_array_equal(*grads)
    assert not grads[0][~inputs["mask"].numpy()].any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", ["token", "turn", "sequence"])
def test_packed_is_padded(name: str, level: str) -> None:
    inputs = {**batch(7), **extras(7)}
    lengths = [9, 4, 0, 7, 6]
    kept = torch.arange(WIDTH)[None] < torch.tensor(lengths)[:, None]
    inputs["mask"] = inputs["mask"] & kept
    options: dict[str, Any] = {"loss": name, "ratio": level, "scale_factor": 9.0}
    seed = torch.Generator().manual_seed
    padded, _ = run(inputs, **options, generator=seed(2))
    packed = {k: v[kept] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    flat, _ = run(packed, offsets=np.cumsum([0, *lengths]).tolist(), **options, generator=seed(2))
    assert flat.item() == pytest.approx(padded.item(), rel=1e-12)
    grads = [slope(loss, inputs["log_probs"]) for loss in (padded, flat)]
    np.testing.assert_allclose(*grads, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_train_on_is_zero(name: str) -> None:
    inputs = {**batch(8), **extras(8)}
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    loss, metrics = run(inputs, loss=name, top_entropy=0.5)
    assert loss.item() == 0
    assert not slope(loss, inputs["log_probs"]).any()
    assert all(math.isfinite(value) for value in metrics.values())
    empty = {k: v[:0] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    assert run(empty, loss=name)[0].item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_close_to_float64(name: str) -> None:
    inputs = batch(9)
    exact, _ = run(inputs, loss=name, generator=torch.Generator().manual_seed(0))
    single = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    rounded, _ = run(single, loss=name, generator=torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-6)
    half, _ = run({**single, "log_probs": single["log_probs"].bfloat16()}, loss="ppo")
    assert half.dtype == torch.float32


def test_a_penalty_in_half_precision_is_that_of_wider_numbers() -> None:
    """k3 of a small difference is less than what half precision tells from 1."""
    log_probs = (-torch.rand(4, 5) - 0.5).bfloat16()
    reference = log_probs + 0.01
    for kind in ("k1", "k2", "k3"):
        got = ap.kl_penalty(log_probs, reference, kind)
        want = ap.kl_penalty(log_probs.double(), reference.double(), kind)
        assert got.dtype == torch.float32 and got.any()
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-7)


def test_tokens_of_prompts_widen_no_loss() -> None:
    inputs = {k: v if k == "mask" else v.float() for k, v in batch(9).items()}
    counts = prompt_counts(inputs["mask"])
    loss, _ = run({**inputs, **counts}, loss_agg_mode="prompt-mean")
    assert counts["prompt_tokens"].dtype == torch.float64 and loss.dtype == torch.float32


def test_credit_brings_its_scale_mask_and_turns() -> None:
    rollouts = ap.Rollouts.from_padded(
        np.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]]),
        group_ids=[0, 0],
        token_rewards=np.array([[0, 0.4, 0, 0, 1.0, 0], [0, 0, 0.1, 0, 0, 0.0]]),
    )
    credit = ap.credit("a2tgpo", rollouts, boundary="nonzero")
    rng = np.random.default_rng(0)
    old = torch.from_numpy(-rng.exponential(1.0, (2, 6)))
    # Moved so far along the advantage that every token is clipped.
    log_probs = (old + 0.1 * torch.from_numpy(np.sign(credit.to_padded()))).requires_grad_()
    mask = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]])
    options: dict[str, Any] = {"loss": "gspo", "ratio": "turn", "clip_low": 3e-3}
    from_credit, _ = ap.policy_loss(log_probs, old, credit, mask, **options)
    explicit, _ = ap.policy_loss(
        log_probs,
        old,
        torch.from_numpy(credit.to_padded()),
        mask,
        clip_scale=torch.from_numpy(credit.to_padded("clip_scale")),
        turns=torch.tensor([[1, 1, 0, 2, 2, 0], [1, 1, 1, 0, 2, 2]]) + torch.tensor([[0], [10]]),
        **options,
    )
    assert from_credit.item() == explicit.item()
    unscaled, _ = ap.policy_loss(
        log_probs, old, torch.from_numpy(credit.to_padded()), mask, **options
    )
    assert unscaled.item() != explicit.item()


def test_advantages_of_sequences_are_spread() -> None:
    inputs = batch(10)
    rows = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    loss, _ = run({**inputs, "advantages": rows})
    column, _ = run({**inputs, "advantages": rows[:, None]})
    full, _ = run({**inputs, "advantages": rows[:, None].expand(ROWS, WIDTH)})
    assert loss.item() == column.item() == full.item()


def test_ranks_and_micro_batches_change_nothing(tmp_path: Path) -> None:
    """One or two gloo processes, one or two micro-batches each: the same losses and gradients."""
    script = Path(__file__).parent / "loss_ranks.py"
    outputs = []
    for world in (1, 2):
        target = tmp_path / str(world)
        command = [sys.executable, str(script), str(world), str(target)]
        subprocess.run(command, check=True, timeout=120)
        outputs += [np.load(f"{target}-{micro}.npy") for micro in (1, 2)]
    assert np.abs(outputs[0]).min() > 0
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], rtol=1e-11, atol=1e-14)


def test_turns_of_two_rows_are_two_though_their_ids_are_one() -> None:
    inputs = batch(14)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]]).repeat(ROWS, 1)
    apart = ids + 3 * torch.arange(ROWS)[:, None]
    got, _ = run(inputs, ratio="turn", turns=ids)
    expected, _ = run(inputs, ratio="turn", turns=apart)
    assert got.item() == expected.item()
    pair = inputs["log_probs"].detach(), inputs["old_log_probs"], inputs["mask"]
    weights = [ap.rollout_weights(*pair, level="segment", turns=t)[0] for t in (ids, apart)]
    assert torch.equal(*weights)


COMPILED: dict[str, dict[str, Any]] = {
    "integers as mask": {"mask": "int"},
    "packed": {"offsets": list(range(0, 46, 9))},
    "segments": {"ratio": "segment", "segment_offsets": [0, 3, 9, 9, 14, 18, 27, 30, 36, 45]},
    "widths of tokens": {"clip_low": torch.full((ROWS, WIDTH), 0.1)},
    "turns": {"ratio": "turn", "ratio_grad": "mean"},
    "cap of tokens": {"loss": "cispo", "ratio_cap": torch.full((ROWS, WIDTH), 1.1)},
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_as_a_whole(name: str) -> None:
    options, inputs = dict(COMPILED[name]), batch(15)
    if options.pop("mask", None):
        inputs["mask"] = inputs["mask"].long()
    if "offsets" in options:
        inputs = {k: v.reshape(-1) for k, v in inputs.items()}

    def loss(own: Any) -> Any:
        return ap.policy_loss(**{**inputs, "log_probs": own}, **options)[0]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = []
    for function in (loss, compiled):
        own = inputs["log_probs"].detach().requires_grad_()
        value = function(own)
        found.append((value.item(), torch.autograd.grad(value, own)[0]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-13)
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["ppo", "sequence_ppo", "geo_mean"])
def test_segments_are_turns_by_their_starts(name: str) -> None:
    """`segment_offsets` and the same segments as `turns`; padded and packed."""
    inputs = batch(13)
    starts = [0, 3, 9, 9, 14, 18, 27, 30, 36, 45]
    ids = np.repeat(np.arange(9), np.diff(starts)).reshape(ROWS, WIDTH)
    options: dict[str, Any] = {"loss": name, "ratio_grad": "mean"}
    turns, _ = run(inputs, ratio="turn", turns=torch.from_numpy(ids), **options)
    segments, _ = run(inputs, ratio="segment", segment_offsets=starts, **options)
    assert segments.item() == pytest.approx(turns.item(), rel=1e-13)
    flat = {k: v.reshape(-1) for k, v in inputs.items()}
    rows = list(range(0, 46, 9))
    for kind in (list, np.array, torch.tensor):
        given = {"segment_offsets": kind(starts), "offsets": kind(rows)}
        packed, _ = run(flat, ratio="segment", **given, **options)
        assert packed.item() == pytest.approx(turns.item(), rel=1e-13)


def test_a_critic_takes_the_returns_of_credit() -> None:
    rollouts = ap.Rollouts.from_padded(
        np.ones((2, 3), dtype=np.int64),
        token_rewards=np.array([[0, 0, 1.0], [0, 0.5, 0]]),
        values=np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]),
    )
    credit = ap.credit("gae", rollouts)
    values = torch.zeros(2, 3, dtype=torch.float64)
    given = torch.from_numpy(credit.to_padded("returns"))
    mask = torch.ones(2, 3)
    ours, _ = ap.value_loss(values, values, credit, mask)
    assert ours.item() == ap.value_loss(values, values, given, mask)[0].item() > 0
    advantages = ap.credit(
        "grpo", ap.Rollouts.from_padded(mask, group_ids=[0, 0], outcome_rewards=[0, 1.0])
    )
    with pytest.raises(ap.InputError, match="grpo returned no 'returns'"):
        ap.value_loss(values, values, advantages, mask)


def test_spans_are_summed_in_a_fixed_order_on_a_gpu() -> None:
    """No operator there that adds as its threads come."""
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), more: Any = None) -> Any:
            seen.append(str(op))
            return op(*args, **(more or {}))

    with FakeTensorMode(), Seen():
        ids = torch.zeros(5, dtype=torch.long, device="cuda")
        sums = Spans(3, ids=ids).sum(torch.ones(5, device="cuda"))
    assert sums.shape == (3,) and sums.is_cuda
    assert "aten.index_put.default" in seen and "aten.index_add.default" not in seen
