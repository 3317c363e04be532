"""Peers written for the benchmarks: what people run today, from its published description.

Each is checked against ours on small inputs before it is timed. NumPy, torch and
the standard library; never `apportion`.
"""
