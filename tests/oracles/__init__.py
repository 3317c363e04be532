"""Naive oracles: every credit formula once more, in plain NumPy loops.

They judge the engine in the property tests, so they share no code with it and may not import
`apportion`. Arrays are padded `(N, T)` as trainers hold them, arithmetic is float64, and speed
is no goal. A reader should be able to lay a function beside the paper's formula.
"""
