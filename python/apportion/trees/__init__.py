"""Trees to look at and to keep: pictures, and files of our own and other projects' making.

Depends on `search` through its public parts, on `report` for its page, on pyarrow only
for Parquet and Arrow.

`data` holds trees as columns, `ragged` their tokens and rollouts; `page` and `drawing` make
pictures of them, `assets/` is what runs in the browser; `trees` is both under one name.
`files` chooses among formats, `objects`, `tables`, `tensors` and `imports` know them, `about`
is what they share.
"""

from apportion.trees.files import read_trees, write_trees
from apportion.trees.ragged import Ragged, TreeRollouts
from apportion.trees.trees import Trees

__all__ = ["Ragged", "TreeRollouts", "Trees", "read_trees", "write_trees"]
