"""K5: the loss of each token and its gradient, in one pass. Depends on `segments`.

d = log ratio, r = ratio, l = log pi, A = advantage. A surrogate has a value, the slope of
that value in d, and its slope in l where l stands in it; what is stopped has none. At
kinks the conventions are those of `kernels.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from apportion.kernels.triton.bounds import larger, smaller, within
from apportion.kernels.triton.segments import geometric_term, span_at, width_of

BLOCK = 1024
QUANTITIES = 6
"""Of the sums: loss, valid tokens, `-d`, two metrics of the surrogate, the KL penalty."""


@triton.jit
def clip_surrogate(ratio, slope, advantage, lower, upper, cap, dual, DUAL: tl.constexpr):
    """PPO's `max(-A min(r, cap), -A clip(r))`, by dual clip at most `-A dual` where A < 0."""
    first = -advantage * smaller(ratio, cap)
    first_slope = tl.where(ratio <= cap, -advantage * slope, 0.0)
    second = -advantage * within(ratio, lower, upper)
    second_slope = tl.where((ratio >= lower) & (ratio <= upper), -advantage * slope, 0.0)
    clipped = second > first
    value = larger(first, second)
    grad = tl.where(clipped, second_slope, first_slope)
    grad = tl.where(second == first, 0.5 * (first_slope + second_slope), grad)
    capped = clipped & False
    if DUAL:
        most = -advantage * dual
        capped = (advantage < 0) & (value > most)
        grad = tl.where((advantage < 0) & (value == most), 0.5 * grad, grad)
        grad = tl.where(capped, 0.0, grad)
        value = tl.where(capped, most, value)
    return value, grad, clipped, capped


@triton.jit
def within_region(new, old, advantage, low, high, KIND: tl.constexpr):
    """Whether a token is in DPPO's trust region, by total variation or KL."""
    prob, old_prob = tl.exp(new), tl.exp(old)
    if KIND == "tv":
        rose = prob - old_prob <= high
        fell = prob - old_prob >= -low
    else:
        rest = tl.log((1 - old_prob + 1e-8) / (1 - prob + 1e-8))
        divergence = old_prob * (old - new) + (1 - old_prob) * rest
        rose = (divergence <= high) | (prob <= old_prob)
        fell = (divergence <= low) | (prob >= old_prob)
    return tl.where(advantage > 0, rose, fell)


@triton.jit
def kl_estimate(a, input_bound, output_bound, KL: tl.constexpr, PLUS: tl.constexpr):
    """The penalty and its slope, 0 where a clamp is active. The bound is +inf for none."""
    if KL == "k1":
        value, slope = a, a * 0 + 1
    elif KL == "abs":
        value = tl.abs(a)
        slope = tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))
    elif KL == "k2":
        value, slope = 0.5 * a * a, a
    else:
        negated = within(-a, -input_bound, input_bound)
        value = tl.exp(negated) - negated - 1
        slope = tl.where(negated == -a, 1 - tl.exp(negated), 0.0)
    limited = within(value, -output_bound, output_bound)
    slope = tl.where(limited == value, slope, 0.0)
    if PLUS:
        slope = a
    return limited, slope


@triton.jit(
    do_not_specialize=[
        *("size", "width", "segment_width", "blocks", "low", "high", "scale", "least", "most"),
        *("cap", "dual", "c0", "c1", "c2", "c3", "kl_coef", "kl_input", "kl_output"),
    ]
)
def token_loss_kernel(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    row_weights,
    row_ids,
    row_values,
    row_divisors,
    pooled,
    segment_ids,
    low_widths,
    high_widths,
    scales,
    chosen,
    multipliers,
    reference,
    gradient,
    through,
    passes,
    partials,
    size,
    width,
    segment_width,
    blocks,
    low,
    high,
    scale,
    least,
    most,
    cap,
    dual,
    c0,
    c1,
    c2,
    c3,
    kl_coef,
    kl_input,
    kl_output,
    SURROGATE: tl.constexpr,
    POOLED: tl.constexpr,
    BOUNDED: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    SCALE: tl.constexpr,
    DUAL: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    KL: tl.constexpr,
    KL_PLUS: tl.constexpr,
    KL_TIMES_RATIO: tl.constexpr,
    ROW_IDS: tl.constexpr,
    SEGMENT_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes each token's gradient and each block's sums (see `QUANTITIES`).

    POOLED: "" for the token's own ratio, "token" for its segment's with the gradient of its
    own log-probability, "mean" for the gradient through the mean, which goes to `through`.
    `c0` to `c3` are constants of the surrogate, `chosen` 1 where it treats a token otherwise.
    """
    block = tl.program_id(0).to(tl.int64)
    start, lanes = block * BLOCK, tl.arange(0, BLOCK)
    at = start + lanes
    inside = at < size
    valid = inside & (tl.load(mask + at, mask=inside, other=0.0) != 0)
    new = tl.load(log_probs + at, mask=valid, other=0.0).to(tl.float32)
    old = tl.load(old_log_probs + at, mask=valid, other=0.0).to(tl.float32)
    advantage = tl.load(advantages + at, mask=valid, other=0.0).to(tl.float32)
    row = span_at(row_ids, start, lanes, inside, width, ROW_IDS)
    weight = tl.load(row_weights + row, mask=valid, other=0.0)

    drift = new - old
    distance = drift
    if POOLED != "":
        segment = span_at(segment_ids, start, lanes, inside, segment_width, SEGMENT_IDS)
        distance = tl.load(pooled + segment, mask=valid, other=0.0)
    free = valid
    if BOUNDED:
        free = (distance >= least) & (distance <= most)
        distance = within(distance, least, most)
    if POOLED == "":
        drift = distance
    ratio = tl.exp(distance)
    slope = tl.where(free, ratio, 0.0)

    low_width = width_of(low_widths, at, valid, low, scales, scale, LOW, SCALE)
    high_width = width_of(high_widths, at, valid, high, scales, scale, HIGH, SCALE)
    none = tl.zeros((BLOCK,), tl.float32)
    by_ratio, by_log_prob = none, none
    first, second = valid & False, valid & False

    if SURROGATE == "ppo" or SURROGATE == "row_ppo" or SURROGATE == "clip_cov":
        if SURROGATE == "row_ppo":
            advantage = tl.load(row_values + row, mask=valid, other=0.0)
        value, by_ratio, first, second = clip_surrogate(
            ratio, slope, advantage, 1 - low_width, 1 + high_width, cap, dual, DUAL
        )
        if SURROGATE == "row_ppo":  # of a row, in which each token has a share
            first = first.to(tl.float32) / tl.load(row_divisors + row, mask=valid, other=1.0)
        if SURROGATE == "clip_cov":
            first = tl.load(chosen + at, mask=valid, other=0.0) != 0
            value, by_ratio = tl.where(first, 0.0, value), tl.where(first, 0.0, by_ratio)
    elif SURROGATE == "kl_cov":
        first, side = kl_estimate(new - old, 0.0, float("inf"), "abs", False)
        penalised = c0 * tl.load(chosen + at, mask=valid, other=0.0)
        value = -advantage * ratio + penalised * first
        by_ratio = -advantage * slope
        by_log_prob = penalised * side
    elif SURROGATE == "cispo" or SURROGATE == "cispo_drop":
        lower, upper = 1 - low_width, 1 + high_width
        held = smaller(within(ratio, lower, upper), cap)
        first = held != ratio
        if SURROGATE == "cispo_drop":
            on_bound = (ratio == lower) | (ratio == upper) | (ratio == cap)
            first = first | on_bound
            held = tl.where(first, 0.0, held)
        by_log_prob = -held * advantage
        value = by_log_prob * new
    elif SURROGATE == "sapo":
        tau = tl.where(advantage > 0, c0, c1)
        gate = tl.sigmoid(tau * (ratio - 1))
        value = -advantage * gate * 4 / tau
        by_ratio = -advantage * 4 * gate * (1 - gate) * slope
    elif SURROGATE == "policy_gradient":
        by_log_prob = -advantage * c0
        value = by_log_prob * new
    elif SURROGATE == "cross_entropy":
        by_log_prob = none - 1
        value = -new
    elif SURROGATE == "dro":
        by_log_prob = -advantage
        value = by_log_prob * new + 0.5 * c0 * distance * distance
        by_ratio = tl.where(free, c0 * distance, 0.0)
    elif SURROGATE == "topr":
        positive = advantage > 0
        tapered = tl.where(positive, c0, c1 * smaller(ratio, cap))
        first = (positive == 0) & (ratio > cap)
        by_log_prob = -tapered * advantage
        value = by_log_prob * new
    elif SURROGATE == "vespo":
        log_weight = tl.load(row_values + row, mask=valid, other=0.0)
        k = tl.where(advantage >= 0, c0, c2)
        rate = tl.maximum(tl.where(advantage >= 0, c1, c3), 1e-4)
        phi = tl.exp(rate + k * log_weight - rate * tl.exp(log_weight))
        phi = tl.where(phi < float("inf"), phi, 0.0)
        by_log_prob = -phi * advantage
        value = by_log_prob * new
    elif SURROGATE == "geometric":
        mean = tl.exp(tl.load(row_values + row, mask=valid, other=0.0))
        value = -advantage * mean
        by_ratio = value
        _, passing, outside = geometric_term(distance, advantage, low_width, high_width)
        passing = passing & free
        first = outside & (advantage > 0)
        second = outside & (advantage < 0)
        tl.store(passes + at, passing.to(tl.float32), mask=inside)
    else:
        if SURROGATE == "dppo_tv" or SURROGATE == "dppo_tv_stop":
            held_in = within_region(new, old, advantage, low_width, high_width, "tv")
        else:
            held_in = within_region(new, old, advantage, low_width, high_width, "kl")
        capped_ratio = smaller(ratio, cap)
        first = held_in == 0
        second = (ratio > cap) & held_in
        kept = held_in.to(tl.float32)
        if SURROGATE == "dppo_tv_stop" or SURROGATE == "dppo_kl_stop":
            by_log_prob = -advantage * capped_ratio * kept
            value = by_log_prob * new
        else:
            value = -advantage * capped_ratio * kept
            by_ratio = tl.where(held_in & (ratio <= cap), -advantage * slope, 0.0)

    if MULTIPLIER:
        factor = tl.load(multipliers + at, mask=valid, other=0.0).to(tl.float32)
        value *= factor
        by_ratio *= factor
        by_log_prob *= factor

    geometric = by_ratio  # GMPO's gradient goes through a mean of its own
    if SURROGATE == "geometric":
        by_ratio = none
    penalty = none
    if KL != "":
        a = new - tl.load(reference + at, mask=valid, other=0.0).to(tl.float32)
        penalty, penalty_slope = kl_estimate(a, kl_input, kl_output, KL, KL_PLUS)
        if KL_TIMES_RATIO:
            value += kl_coef * penalty * ratio
            by_ratio += kl_coef * penalty * slope
            by_log_prob += kl_coef * penalty_slope * ratio
        else:
            value += kl_coef * penalty
            by_log_prob += kl_coef * penalty_slope

    # The gradient of a loss that is no number is none either.
    by_ratio = tl.where(value == value, by_ratio, value)
    by_log_prob = tl.where(value == value, by_log_prob, value)
    if POOLED == "mean":
        tl.store(through + at, tl.where(valid, weight * by_ratio, 0.0), mask=inside)
    else:
        by_log_prob += by_ratio
    if SURROGATE == "geometric":
        tl.store(through + at, tl.where(valid, weight * geometric, 0.0), mask=inside)
    tl.store(gradient + at, tl.where(valid, weight * by_log_prob, 0.0), mask=inside)

    tl.store(partials + block, tl.sum(tl.where(valid, weight * value, 0.0), axis=0))
    tl.store(partials + blocks + block, tl.sum(valid.to(tl.float32), axis=0))
    tl.store(partials + 2 * blocks + block, tl.sum(tl.where(valid, -drift, 0.0), axis=0))
    tl.store(partials + 3 * blocks + block, tl.sum(tl.where(valid, first, 0.0), axis=0))
    tl.store(partials + 4 * blocks + block, tl.sum(tl.where(valid, second, 0.0), axis=0))
    tl.store(partials + 5 * blocks + block, tl.sum(tl.where(valid, penalty, 0.0), axis=0))
