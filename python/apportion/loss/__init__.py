"""The policy loss, log-probabilities, and what a trainer needs beside them. Needs torch.

`policy` is the loss, `log_probs` the log-probabilities and entropy, `linear` both in one;
`critic`, `off_policy` and `kl_control` stand by themselves. Arguments are checked by
`inputs`, `settings`, `rows` and `head`, and settled in `pose`; `presets` are the trainers'
settings. What is computed is in `apportion.kernels`. Nothing is imported here: `kl_control`
and `presets` need no torch. `isinstance` has tuples where it may be compiled: torch.compile
of torch 2.8 does not know unions.
"""
