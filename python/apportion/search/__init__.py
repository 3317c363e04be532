"""Tree search: many trees at once, any evaluator, one way to ask and to tell.

`search` is the face; `desk` asks and tells, `answers` reads what it is told, `data` is
what it hands out, `results` and `rows` what can be read from it, `loops` the loops around
it, `log` and `timeline` what is kept of it, `rules` what rules there are. Needs NumPy
alone; trees as files and pictures are in `apportion.trees`.
"""

from apportion.search.data import KINDS, Leaves, Nodes, SearchRollouts
from apportion.search.search import Search

__all__ = ["KINDS", "Leaves", "Nodes", "Search", "SearchRollouts"]
