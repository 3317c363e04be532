"""The policy loss in pieces: the same numbers as in one, however small the pieces are."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from apportion.kernels import pieces, policy_loss  # noqa: E402
from loss_batches import BY_BATCH, LOSSES, ROWS, WIDTH, batch, extras, run  # noqa: E402

MORE: dict[str, Any] = {
    "like verl": {"like": "verl"},
    "dual clip": {"dual_clip": 1.1, "clip_high": 0.05},
    "capped": {"ratio_cap": 1.05, "loss_agg_mode": "seq-mean-token-mean"},
    "per token": {"clip_low": torch.full((ROWS, WIDTH), 0.1), "clip_scale": 0.5 * torch.ones(5, 9)},
    "sequences": {"loss": "gspo", "clip_low": 0.01, "loss_agg_mode": "dr-grpo"},
    "through the mean": {"ratio": "sequence", "ratio_grad": "mean"},
}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pieces of a row or two; and the problems that were computed so."""
    solved: list[Any] = []
    evaluate = pieces.evaluate
    monkeypatch.setattr(pieces, "evaluate", lambda p: solved.append(p) or evaluate(p))
    monkeypatch.setattr(pieces, "TOKENS", 2 * WIDTH + 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return solved


def whole(monkeypatch: pytest.MonkeyPatch, inputs: Any, **options: Any) -> tuple[Any, Any]:
    with monkeypatch.context() as patch:
        patch.setattr(policy_loss.pieces, "covers", lambda _: False)
        return run(inputs, **options)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", [*LOSSES, *MORE])
def test_as_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, cut: list[Any], name: str, layout: str
) -> None:
    inputs, options = batch(1), dict(MORE.get(name, {"loss": name}))
    given = extras(1)
    del given["rollout_log_probs"], given["off_policy_threshold"], given["entropies"]
    inputs |= given
    if layout == "packed":
        inputs = {k: v.reshape(-1) if torch.is_tensor(v) else v for k, v in inputs.items()}
        options = {k: v.reshape(-1) if torch.is_tensor(v) else v for k, v in options.items()}
        options["offsets"] = range(0, ROWS * WIDTH + 1, WIDTH)
    own = inputs["log_probs"].detach().requires_grad_()
    inputs["log_probs"] = own
    # Garbage outside the mask reaches nothing.
    gone = ~inputs["mask"]
    inputs["advantages"] = inputs["advantages"].masked_fill(gone, torch.nan)
    options |= {"generator": torch.Generator().manual_seed(3)}
    loss, metrics = run(inputs, **options)
    options |= {"generator": torch.Generator().manual_seed(3)}
    want, wanted = whole(monkeypatch, inputs, **options)
    torch.testing.assert_close(loss, want, rtol=1e-13, atol=1e-15)
    assert metrics.keys() == wanted.keys()
    for key, value in metrics.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-12, atol=1e-14)
    slope, expected = (torch.autograd.grad(x, own)[0] for x in (loss, want))
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-15)
    assert (slope[gone] == 0).all()
    if layout == "padded":
        assert bool(cut) == (name not in BY_BATCH)


def test_gradients_of_gradients_and_more_than_one(cut: list[Any]) -> None:
    inputs = batch(2)
    own, loss = inputs["log_probs"], run(inputs, loss="sapo")[0]
    (first,) = torch.autograd.grad(loss, own, retain_graph=True)
    kept = first.clone()
    first.fill_(torch.nan)  # its owner may write to it
    (again,) = torch.autograd.grad(3.0 * loss, own, retain_graph=True)
    torch.testing.assert_close(again, 3.0 * kept)
    (slope,) = torch.autograd.grad(loss, own, create_graph=True)
    torch.testing.assert_close(slope.detach(), kept)
    (curvature,) = torch.autograd.grad(slope.sum(), own)
    step = 1e-6
    moved = {**inputs, "log_probs": (own.detach() + step).requires_grad_()}
    (near,) = torch.autograd.grad(run(moved, loss="sapo")[0], moved["log_probs"])
    torch.testing.assert_close(curvature, (near - kept) / step, rtol=1e-4, atol=1e-7)
    assert len(cut) == 2


def test_a_setting_with_a_gradient_is_not_cut(cut: list[Any]) -> None:
    inputs = {**batch(4), "ref_log_probs": extras(4)["ref_log_probs"]}
    coef = torch.tensor(0.1, requires_grad=True)
    (slope,) = torch.autograd.grad(run(inputs, kl_coef=coef)[0], coef)
    plain = [run(inputs, kl_coef=value)[0].item() for value in (0.1, 1.1)]
    assert slope.item() == pytest.approx(plain[1] - plain[0])
    assert len(cut) == 2  # those of numbers


def test_half_precision_and_no_gradient(cut: list[Any]) -> None:
    inputs = batch(3)
    half = {k: v if k == "mask" else v.detach().bfloat16() for k, v in inputs.items()}
    wide = {k: v if k == "mask" else v.float() for k, v in half.items()}
    found = []
    for given in (half, wide):
        own = given["log_probs"].requires_grad_()
        loss, _ = run(given)
        assert loss.dtype == torch.float32
        found.append((loss, torch.autograd.grad(loss, own)[0]))
        with torch.no_grad():
            assert run(given)[0] == loss.detach()
    assert found[0][0] == found[1][0]
    assert found[0][1].dtype == torch.bfloat16
    assert torch.equal(found[0][1], found[1][1].bfloat16())
