"""Triton kernels of the fused policy loss, and their plain torch counterparts.

Imported on demand by `apportion.loss.policy`; nothing here may be imported by
`import apportion`, because torch and triton are optional.
"""
