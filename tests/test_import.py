"""Importing apportion is cheap: NumPy alone, and little time on top of it."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "triton", "transformers", "trl", "verl", "ray", "pyarrow", "scipy", "pandas")

PROBE = """
import json, sys, time
import numpy
before = set(sys.modules)
start = time.process_time()
import apportion
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


def probe() -> dict:
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_nothing_heavy_is_imported() -> None:
    new = {name.split(".")[0] for name in probe()["new"]}
    assert not new & set(HEAVY)
    outside = {n for n in new if n not in sys.stdlib_module_names and not n.startswith("_")}
    assert outside <= {"apportion", "numpy"}


def test_little_time_is_added() -> None:
    # Processor time, and the best of a few: what else the machine does is not ours.
    assert min(probe()["seconds"] for _ in range(5)) <= 0.030


def test_every_public_name_is_documented() -> None:
    import apportion

    for name in apportion.__all__:
        value = getattr(apportion, name)
        assert name == "__version__" or (value.__doc__ and value.__doc__.strip()), name
