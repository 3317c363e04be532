"""Adapters into trainers. They import everything and are imported by nothing."""
