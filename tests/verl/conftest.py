"""These tests need verl, so they run in its own environment: `make test-verl`."""

import importlib.util

# Not "verl": this folder itself would be found under that name.
collect_ignore = [] if importlib.util.find_spec("verl.trainer") else ["test_verl.py"]
