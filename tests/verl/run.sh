#!/bin/sh
# Makes an environment with verl and compares its estimators with ours.
# Called by `make test-verl`.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-verl
if [ ! -e "$venv/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet -r tests/verl/requirements.txt
  "$venv/bin/python" -m pip install --quiet --no-deps 'verl==0.9.1'
  touch "$venv/.ready"
fi
"$venv/bin/python" -m pip install --quiet --no-deps .
exec "$venv/bin/python" -m pytest tests/verl "tests/test_docs.py" -k "verl" "$@"
