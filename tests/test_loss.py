"""The policy loss: against loops, its gradient, what must not change it, and bad input."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402
from apportion.kernels.reference.aggregate import MODES  # noqa: E402
from apportion.loss_presets import PRESETS  # noqa: E402
from oracles import losses as oracle  # noqa: E402

LOSSES = sorted(ap.losses())
BY_BATCH = {"clip_cov", "kl_cov"}  # they choose tokens among those of the call
ROWS, WIDTH = 5, 9


def batch(seed: int, spread: float = 0.3) -> dict[str, Any]:
    """Float64 tensors with gaps inside rows and one empty row."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, WIDTH)
    mask = rng.random(shape) < 0.7
    mask[2] = False
    mask[0, 0] = True
    old = -rng.exponential(1.0, shape)
    return {
        "log_probs": torch.from_numpy(old + spread * rng.standard_normal(shape)).requires_grad_(),
        "old_log_probs": torch.from_numpy(old),
        "advantages": torch.from_numpy(rng.standard_normal(shape)),
        "mask": torch.from_numpy(mask),
    }


def extras(seed: int) -> dict[str, Any]:
    """Everything that a loss may take beside the four."""
    rng = np.random.default_rng(seed + 100)
    shape = (ROWS, WIDTH)
    return {
        "ref_log_probs": torch.from_numpy(-rng.exponential(1.0, shape)),
        "rollout_log_probs": torch.from_numpy(-rng.exponential(1.0, shape)),
        "rollout_weights": torch.from_numpy(rng.uniform(0.5, 2.0, shape)),
        "entropies": torch.from_numpy(rng.uniform(0.0, 3.0, shape)),
        "kl_coef": 0.1,
        "off_policy_threshold": 0.2,
    }


def run(inputs: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    names = ("log_probs", "old_log_probs", "advantages", "mask")
    others = {k: v for k, v in inputs.items() if k not in names}
    return ap.policy_loss(*(inputs[n] for n in names), **others, **options)


def slope(loss: Any, of: Any) -> np.ndarray:
    return torch.autograd.grad(loss, of)[0].numpy()


@pytest.mark.parametrize("level", ["token", "turn", "sequence"])
@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_clipped_losses_are_the_loops(level: str, mode: str, dual_clip: float | None) -> None:
    for seed in range(5):
        inputs = batch(seed, spread=0.6)
        rng = np.random.default_rng(seed)
        low, high, scale = (rng.uniform(0.05, 0.3, (ROWS, WIDTH)) for _ in range(3))
        loss, _ = run(
            inputs,
            ratio=level,
            clip_low=torch.from_numpy(low),
            clip_high=torch.from_numpy(high),
            clip_scale=torch.from_numpy(scale),
            dual_clip=dual_clip,
            loss_agg_mode=mode,
            scale_factor=17.0,
        )
        arrays = [inputs[n].detach().numpy() for n in list(inputs)[:4]]
        token_losses = oracle.clipped(*arrays, low * scale, high * scale, level, dual_clip)
        want = oracle.aggregate(token_losses, arrays[3], mode, 17.0)
        assert loss.item() == pytest.approx(want, rel=1e-12)


def test_sapo_is_its_formula() -> None:
    inputs = batch(2)
    loss, _ = run(inputs, loss="sapo", loss_agg_mode="token-sum", tau_pos=0.9, tau_neg=1.05)
    log_probs, old, advantages, mask = (inputs[n].detach().numpy() for n in list(inputs)[:4])
    tau = np.where(advantages > 0, 0.9, 1.05)
    gate = 4 / tau / (1 + np.exp(-tau * (np.exp(log_probs - old) - 1)))
    assert loss.item() == pytest.approx(-(gate * advantages)[mask].sum(), rel=1e-13)


STOPPED = ["cispo", "vespo"]  # their weights carry no gradient


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(STOPPED)))
def test_gradient(name: str) -> None:
    """Finite differences; at random inputs no token is at a kink."""
    inputs = {**batch(1), **extras(1)}
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
    if name == "clip_cov":
        options |= {"cov_low": 90.0, "cov_high": 91.0}  # drawing would differ between calls
    if name == "gspo":
        options["ratio_grad"] = "mean"

    def of(log_probs: Any) -> Any:
        return run({**inputs, "log_probs": log_probs}, loss=name, **options)[0]

    assert torch.autograd.gradcheck(of, inputs["log_probs"], eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", STOPPED)
def test_gradient_of_stopped_weights(name: str) -> None:
    """Where only `l` carries a gradient, the loss is linear in it: `grad * l` sums to it."""
    inputs = batch(3)
    loss, _ = run(inputs, loss=name)
    grad = slope(loss, inputs["log_probs"])
    assert (grad * inputs["log_probs"].detach().numpy()).sum() == pytest.approx(loss.item())


@pytest.mark.parametrize("level", ["turn", "sequence"])
def test_pooled_ratio_has_one_value_and_two_gradients(level: str) -> None:
    """Through the mean, or the token's own: equal sums over a span where A is constant."""
    inputs = batch(4)
    inputs["advantages"] = torch.ones(ROWS, dtype=torch.float64)
    options = {"loss": "gspo", "ratio": level, "clip_low": 0.9, "clip_high": 9.0}
    options["loss_agg_mode"] = "token-mean"
    token, _ = run(inputs, ratio_grad="token", **options)
    mean, _ = run(inputs, ratio_grad="mean", **options)
    assert token.item() == pytest.approx(mean.item(), rel=1e-14)
    a, b = (slope(loss, inputs["log_probs"]) for loss in (token, mean))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


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


@pytest.mark.parametrize(("like", "name"), [(t, n) for t in PRESETS for n in PRESETS[t]])
def test_every_preset_runs(like: str, name: str) -> None:
    inputs = batch(11)
    loss, metrics = run(inputs, like=like, loss=name)
    assert math.isfinite(loss.item())
    assert "approx_kl" in metrics
    assert np.isfinite(slope(loss, inputs["log_probs"])).all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_what_it_is(name: str) -> None:
    doc = ap.losses()[name].doc
    assert "`" in doc, f"{name}: no formula"
    for option in ap.losses()[name].options:
        assert option in doc or option.rsplit("_", 1)[0] in doc or option.startswith("clip"), option


BAD: list[tuple[dict[str, Any], str]] = [
    ({"loss": "pppo"}, "loss: got 'pppo', expected one of .*ppo"),
    ({"like": "veri"}, "like: got 'veri', expected one of verl"),
    ({"like": "trl", "loss": "vanilla"}, "loss .*: got 'vanilla', expected one of dapo"),
    ({"clip_hi": 0.2}, "unknown option 'clip_hi', expected one of .*clip_high"),
    ({"loss": "gpg", "clip_low": 0.2}, "unknown option 'clip_low'"),
    ({"ratio": "segment"}, "ratio: got 'segment', expected one of token, turn, sequence"),
    ({"loss_agg_mode": "mean"}, "loss_agg_mode: got 'mean', expected one of token-mean"),
    ({"clip_low": -0.1}, "clip_low: got -0.1, expected a number at least 0"),
    ({"dual_clip": 1.0}, "dual_clip: got 1.0, expected a number above 1"),
    ({"kl_coef": math.nan}, "kl_coef: got nan"),
    ({"kl_coef": 0.1}, "ref_log_probs: got none"),
    ({"kl_coef": 0.1, "kl_kind": "k4"}, "kl_kind: got 'k4'"),
    ({"top_entropy": 0.5}, "entropies: got none"),
    ({"top_entropy": 0.0}, "top_entropy: got 0.0, expected a number above 0"),
    ({"dp_size": 2}, "num_tokens: got none"),
    ({"num_tokens": 0}, "num_tokens: got 0, expected a number above 0"),
    ({"log_ratio_bounds": 20.0}, "log_ratio_bounds: got 20.0"),
    ({"log_ratio_bounds": (2.0, -2.0)}, "log_ratio_bounds: got .*, expected low below high"),
    ({"mask": torch.full((ROWS, WIDTH), 2)}, r"mask\[0\]: got 2, expected 0 or 1"),
    ({"mask": torch.ones(WIDTH, ROWS)}, r"mask: got shape \(9, 5\)"),
    ({"old_log_probs": torch.ones(3)}, r"old_log_probs: got shape \(3,\)"),
    ({"advantages": torch.ones(3)}, r"advantages: got shape \(3,\)"),
    ({"offsets": [0, 5]}, "offsets: got some, expected none"),
    ({"log_probs": torch.ones(ROWS, WIDTH, dtype=torch.int64)}, "got torch.int64"),
    ({"turns": torch.ones(ROWS, WIDTH), "ratio": "turn"}, "turns: got torch.float32"),
    ({"clip_scale": torch.full((ROWS, WIDTH), -1.0)}, r"clip_scale\[0\]: got -1.0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    inputs = batch(12)
    inputs["mask"] = torch.ones(ROWS, WIDTH, dtype=torch.bool)
    with pytest.raises(ap.InputError, match=message):
        run({**inputs, **change})


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0, 3], "from 0 to 4"), ([1, 4], "from 0 to 4"), ([0, 3, 2, 4], r"offsets\[2\]: got 2")],
)
def test_bad_offsets(offsets: list[int], message: str) -> None:
    x = torch.ones(4)
    with pytest.raises(ap.InputError, match=message):
        ap.policy_loss(x, x, x, x, offsets=offsets)


def test_rejection_rules_combine() -> None:
    x = torch.tensor([[0.0, 2.0, -0.1], [0.1, 0.2, 0.0]])
    mask, zero = torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    rules: dict[str, Any] = {"token_k1": 2.0, "seq_max_k2": 1.9}
    kept, metrics = ap.rollout_rejection(x, zero, mask, rules)
    assert kept.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert kept.dtype == torch.int64
    assert metrics["fraction"].item() == pytest.approx(0.5)
    with pytest.raises(ap.OptionError, match="unknown option 'token_k4'"):
        ap.rollout_rejection(x, zero, mask, {"token_k4": 1.0})
    with pytest.raises(ap.OptionError, match="expected one upper bound"):
        ap.rollout_rejection(x, zero, mask, {"token_k2": (0.1, 1.0)})


def test_importing_without_torch_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import apportion as ap\n"
        "try: ap.policy_loss\n"
        "except ap.ExtraMissingError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'apportion[torch]'" in out.stdout


def test_ranks_average_to_the_whole(tmp_path: Path) -> None:
    """Two gloo processes, half of the rows each: gradients, averaged, are those of one."""
    script = Path(__file__).parent / "loss_ranks.py"
    outputs = []
    for world in (1, 2):
        target = tmp_path / f"{world}.npy"
        command = [sys.executable, str(script), str(world), str(target)]
        subprocess.run(command, check=True, timeout=120)
        outputs.append(np.load(target))
    np.testing.assert_allclose(*outputs, rtol=1e-12, atol=1e-15)
