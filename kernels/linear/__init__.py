"""From hidden states and a head to log-probabilities, without all the logits at once.

`plan` says how much is computed at a time, `matmul` multiplies with float32 results,
`log_probs` computes values and gradients, `operators` registers them with torch, `fused`
takes the loss along.
Needs torch, and the row operators of `kernels.log_probs`. Arguments are checked before,
in `apportion.loss.head`.
"""
