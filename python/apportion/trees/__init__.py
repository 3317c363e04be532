"""Trees to look at and to keep: pictures, and files of our own and other projects' making.

Depends on `tree` through its public parts, on `report` for its page, on pyarrow only
for Parquet and Arrow.

`data` holds trees as columns; `page` and `drawing` make pictures of them, `assets/` is
what runs in the browser; `files` chooses among formats, `tables`, `tensors` and
`imports` know them.
"""

from apportion.trees.data import Trees
from apportion.trees.files import read_trees, write_trees

__all__ = ["Trees", "read_trees", "write_trees"]
