"""The policy loss in plain torch: the oracle of the kernels, and the path without a GPU.

`batch` lays tokens out flat and knows their rows and turns; `registry` lists the losses
and `losses` has one function each; `aggregate` turns a mode into a weight a token; `kl`
and `rollout` hold the penalties and the corrections for a sampler that differs from the
trainer. They need torch alone. Arguments are checked before, in `apportion.loss.policy`.
"""
