#!/bin/sh
# Builds the documentation into site/, strictly: a broken link fails.
# Called by `make docs`.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-docs
if [ ! -e "$venv/.ready" ] || [ docs/requirements.txt -nt "$venv/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet -r docs/requirements.txt
  touch "$venv/.ready"
fi
# The methods' pages are made from what the installed package says of itself.
"$venv/bin/python" -m pip install --quiet .
NO_MKDOCS_2_WARNING=1 \
  exec "$venv/bin/python" -m mkdocs build --strict --site-dir site
