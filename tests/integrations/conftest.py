"""Tests of an integration are collected only where its trainer is installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("trl") else ["test_trl.py"]
