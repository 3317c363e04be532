"""These tests need verl, so they run in its own environment: `make test-verl`."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("verl") else ["test_verl.py"]
