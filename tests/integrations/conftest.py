"""Tests of an integration are collected only where its trainer is installed."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for trl_runs

collect_ignore_glob = [] if importlib.util.find_spec("trl") else ["test_trl*.py"]
