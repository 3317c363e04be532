"""The light op against plain torch in float64: run by `test_light_op.py`, interpreted.

On a machine with a GPU the same tests run there, compiled:
`pytest tests/kernels/light_op.py`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import triton
from light_cases import (
    CASES,
    DEVICE,
    FACTORS,
    ROWS,
    WIDTH,
    arguments,
    batch,
    compare,
    doubled,
    problem,
)

import apportion as ap
from apportion.kernels import dispatch
from apportion.kernels.dispatch import runs_on_triton
from apportion.kernels.reference.evaluate import evaluate as plain
from apportion.kernels.triton import policy_loss as fused
from apportion.kernels.triton import segments as seg
from apportion.kernels.triton.surrogates import SURROGATES
from apportion.kernels.triton.token_loss_op import FLAGS, INPUTS, NUMBERS, token_loss
from loss_batches import run
from test_loss_kinks import EDGE, KINKS, OLD


@pytest.fixture(autouse=True)
def poisoned_memory() -> Any:
    """Fresh memory is NaN, so that what a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_cover_against_float64(number: int) -> None:
    compare(arguments(CASES[number], number))


@pytest.mark.parametrize("kink", range(len(KINKS)))
def test_kinks_are_taken_as_plain_torch_takes_them(kink: int) -> None:
    options, distance, advantage, _ = KINKS[kink]
    if "dual_clip" in options:
        pytest.skip("e is no number of float32: r does not hit it")
    call = {
        "log_probs": torch.full((1, 1), OLD + distance),
        "old_log_probs": torch.full((1, 1), OLD),
        "advantages": torch.full((1, 1), advantage),
        "ref_log_probs": torch.full((1, 1), OLD + 1.0),
        "mask": torch.ones(1, 1),
        "loss_agg_mode": "token-sum",
        **options,
    }
    call = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    leaf, given = problem(call)
    want_leaf, same = problem(call)
    fused.evaluate(given)[0].backward()
    plain(same)[0].backward()
    torch.testing.assert_close(leaf.grad, want_leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 2, 1023, 1024, 1025])
@pytest.mark.parametrize("loss", ["ppo", "geo_mean", "luspo", "sequence_ppo", "kl_cov"])
def test_sizes(loss: str, size: int) -> None:
    given = {k: v.reshape(-1)[:size][None] for k, v in batch(3).items()}
    call = {k: given[k] for k in ("log_probs", "old_log_probs", "advantages", "mask")}
    if size:
        compare({**call, "loss": loss})
    else:
        leaf, empty = problem({**call, "loss": loss})
        value, metrics = fused.evaluate(empty)
        value.backward()
        assert value.item() == 0 and leaf.grad is not None and leaf.grad.shape == (1, 0)
        assert all(metric.item() == 0 for metric in metrics.values())


def test_nothing_to_train_on_is_zero() -> None:
    given = batch(4)
    given["mask"] = torch.zeros_like(given["mask"])
    for name in sorted(SURROGATES):
        call = {k: given[k] for k in ("log_probs", "old_log_probs", "advantages", "mask")}
        leaf, none = problem({**call, "loss": name})
        value, metrics = fused.evaluate(none)
        value.backward()
        assert value.item() == 0 and leaf.grad is not None and not leaf.grad.any()
        assert all(metric.item() == 0 for metric in metrics.values())


@pytest.mark.parametrize("name", ["ppo", "gspo", "geo_mean"])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
def test_an_empty_batch_as_trainers_have_it_that_divide_by_nothing(name: str, mode: str) -> None:
    """A loss of NaN, and a gradient of 0, where what is divided by was counted."""
    given = batch(4)
    given["mask"] = torch.zeros_like(given["mask"])
    call = {k: given[k] for k in ("log_probs", "old_log_probs", "advantages", "mask")}
    call |= {"loss": name, "loss_agg_mode": mode, "count_floor": 0.0}
    leaf, none = problem(call)
    value, _ = fused.evaluate(none)
    value.backward()
    want, _ = plain(problem(doubled(call))[1])
    torch.testing.assert_close(value.cpu().double(), want, equal_nan=True)
    assert want.isnan() == (not mode.endswith("norm"))
    assert leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize("name", ["ppo", "gspo", "geo_mean", "sapo"])
def test_strides(name: str) -> None:
    """Of packed tensors that are columns of others, and of one value that stands for all."""
    case = {factor: values[0] for factor, values in FACTORS.items()}
    call = arguments({**case, "loss": name, "widths": "tensor", "packed": True}, 6)
    for key, value in call.items():
        if isinstance(value, torch.Tensor):
            call[key] = torch.stack([value, torch.zeros_like(value)], 1)[:, 0]
    offsets = torch.tensor(call["offsets"])
    call["offsets"] = torch.stack([offsets, -offsets], 1)[:, 0]
    compare(call)
    call["advantages"] = torch.tensor(0.7, device=DEVICE).expand(ROWS * WIDTH)
    compare(call)
    call = {k: v[:64, None] for k, v in call.items() if isinstance(v, torch.Tensor)}
    compare({"loss": name, **{k: v for k, v in call.items() if k != "offsets"}})


def test_segments_of_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels of sums, and the bits of one where a segment fits a chunk."""
    case = {name: values[0] for name, values in FACTORS.items()}
    case |= {"loss": "ppo", "level": "sequence", "ratio_grad": "mean", "widths": "number"}
    for packed in (False, True):
        call = arguments({**case, "packed": packed}, 5)
        whole = fused.evaluate(problem(call)[1])[0]
        monkeypatch.setattr(seg, "CHUNK", 1024)
        assert torch.equal(fused.evaluate(problem(call)[1])[0], whole)
        monkeypatch.setattr(seg, "CHUNK", 128)
        compare(call)
        for loss in ("geo_mean", "vespo", "sequence_ppo"):
            compare(arguments({**case, "loss": loss, "level": "token", "packed": packed}, 5))
        monkeypatch.undo()


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    case = {name: values[0] for name, values in FACTORS.items()}
    case |= {"loss": "gspo", "level": "sequence", "ratio_grad": "mean", "widths": "number"}
    gradients = []
    for rows in ([0, 1, 2, 3, 4], [3], [4, 3, 1]):
        call = arguments(case, 6)
        call = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in call.items()}
        call |= {"loss_agg_mode": "token-mean", "num_tokens": 1000.0}
        leaf, given = problem(call)
        fused.evaluate(given)[0].backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad[rows.index(3)])
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


def operands(requires_grad: bool = True) -> tuple[Any, ...]:
    """What the operator takes for PPO with tensors of widths, poisoned outside the mask."""
    given = batch(7)
    flat = {k: v.reshape(-1) for k, v in given.items()}
    inputs = {
        **{name: flat[name] for name in ("old_log_probs", "advantages")},
        "mask": flat["mask"].float(),
        "row_weights": torch.full((ROWS,), 1e-3, device=DEVICE),
        "low": flat["clip_low"],
        "high": flat["clip_high"],
        "reference": flat["ref_log_probs"],
    }
    numbers = {"cap": math.inf, "kl_coef": 0.1, "kl_input": 20.0, "kl_output": 10.0}
    log_probs = flat["log_probs"].detach().requires_grad_(requires_grad)
    return (
        log_probs,
        [inputs.get(name) for name in INPUTS],
        *("ppo", "", "", "k3"),
        [numbers.get(name, 0.0) for name in NUMBERS],
        [name in ("low", "high") for name in FLAGS],
        [WIDTH, 0, 0],
    )


def test_nan_outside_the_mask_reaches_nothing() -> None:
    given = operands()
    loss, sums, gradient = token_loss(*given)
    (slope,) = torch.autograd.grad(loss, given[0])
    assert torch.isfinite(sums).all() and torch.isfinite(gradient).all()
    assert torch.isfinite(slope).all() and torch.equal(slope, gradient)
    again = token_loss(*given)
    assert all(torch.equal(a, b) for a, b in zip(again, (loss, sums, gradient), strict=True))


def test_the_operator_is_sound() -> None:
    """Schema, fake kernel and autograd registration."""
    # Its outputs hold NaN nowhere, but opcheck compares inputs that do.
    log_probs, inputs, *others = operands()
    inputs = [None if x is None else x.nan_to_num() for x in inputs]
    given = log_probs.detach().nan_to_num().requires_grad_()
    torch.use_deterministic_algorithms(False)
    torch.library.opcheck(token_loss, (given, inputs, *others))


def test_no_graph_breaks() -> None:
    given = operands()

    def twice(log_probs: torch.Tensor, inputs: list[Any]) -> torch.Tensor:
        return 2 * token_loss(log_probs, inputs, *given[2:])[0]

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    loss = compiled(given[0], given[1])
    (slope,) = torch.autograd.grad(loss, given[0])
    assert torch.equal(slope, 2 * token_loss(*given)[2])


@pytest.mark.filterwarnings("error:Dynamo detected a call")
@pytest.mark.parametrize("packed", [False, True])
def test_the_public_function_compiles_as_a_whole(packed: bool) -> None:
    """Without a word of what is traced and what is not."""
    case = {name: values[0] for name, values in FACTORS.items()}
    call = arguments({**case, "loss": "ppo", "level": "sequence", "packed": packed}, 10)
    own = call.pop("log_probs").detach().requires_grad_()

    def loss(log_probs: torch.Tensor) -> torch.Tensor:
        return ap.policy_loss(log_probs, **call)[0]

    values = [loss(own), torch.compile(loss, fullgraph=True, backend="aot_eager")(own)]
    slopes = [torch.autograd.grad(value, own)[0] for value in values]
    assert torch.equal(*values) and torch.equal(*slopes)


def test_a_triton_that_is_too_old_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    token = torch.zeros(1, device=DEVICE)
    for version, takes in (("3.3.1", False), ("3.4.0+git1", True), ("4.0.0", True)):
        monkeypatch.setattr(triton, "__version__", version)
        dispatch._has_triton.cache_clear()
        assert runs_on_triton(token) is takes
    dispatch._has_triton.cache_clear()


def test_the_public_function_takes_this_path(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(fused, "token_loss", lambda *a: calls.append(a) or token_loss(*a))
    given = {
        k: v
        for k, v in batch(8).items()
        if k in ("log_probs", "old_log_probs", "advantages", "mask")
    }
    run(given, loss="ppo", **EDGE)
    assert len(calls) == 1 and calls[0][0].isnan().any()  # read within the mask alone
    run(given, loss="kl_cov")
    assert len(calls) == 2 and not calls[1][0].isnan().any()  # torch chose among the tokens
    run(given, loss="geo_mean", ratio="sequence")
    run(given, loss="ppo", dual_clip=torch.tensor(3.0, device=DEVICE))
    run({**given, "log_probs": given["log_probs"].double()}, loss="ppo")
    for wrong in ({"dual_clip": 0.5}, {"old_log_probs": given["mask"][:2]}, {"turns": 3}):
        with pytest.raises(ap.InputError):
            run({**given, "ratio": "turn", **wrong})
    assert len(calls) == 2


@pytest.mark.parametrize("name", sorted(SURROGATES))
@pytest.mark.parametrize("what", ["log_probs", "old_log_probs"])
def test_nan_inside_the_mask_is_not_lost(name: str, what: str) -> None:
    """A model that has diverged must not train on: NaN wherever plain torch has it."""
    inputs = {k: v.clone() for k, v in batch(21).items()}
    mask = inputs["mask"]
    row, column = mask.nonzero()[7].tolist()
    inputs[what][row, column] = math.nan
    names = ("log_probs", "old_log_probs", "advantages", "mask", "ref_log_probs")
    given = {k: inputs[k] for k in names}
    options = {"loss": name, "kl_coef": 0.1, "log_ratio_bounds": (-20.0, 20.0)}
    if name == "geo_mean":
        options.pop("log_ratio_bounds")
    own = given.pop("log_probs")
    values = []
    for dtype in (torch.float32, torch.float64):
        leaf = own.to(dtype).requires_grad_()
        loss, _ = ap.policy_loss(leaf, **given, **options)
        values.append((loss, torch.autograd.grad(loss, leaf)[0]))
    (loss, slope), (expected, plain_slope) = values
    assert torch.isnan(loss) or not torch.isnan(expected)
    assert torch.isfinite(slope[~mask]).all()
    if torch.isnan(expected) and torch.isnan(plain_slope).any():
        assert torch.isnan(slope).any()
