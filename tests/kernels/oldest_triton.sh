#!/bin/sh
# Makes an environment with the oldest Triton that the kernels support, compiles every
# form of them and runs the interpreted tests there. Called by `make test-triton`.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-triton
if [ ! -e "$venv/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  # Its interpreter fails with numpy 2.4.
  "$venv/bin/python" -m pip install --quiet 'triton==3.6.0' 'torch==2.11.*' 'numpy<2.4' 'pytest>=8'
  touch "$venv/.ready"
fi
"$venv/bin/python" -m pip install --quiet --no-deps .
"$venv/bin/python" -m apportion.kernels.aot
TRITON_INTERPRET=1 exec "$venv/bin/python" -m pytest -p no:cacheprovider \
  tests/kernels/row_kernels.py tests/kernels/light_op.py "$@"
