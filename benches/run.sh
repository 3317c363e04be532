#!/bin/sh
# Runs the benchmarks. Called by `make bench [ONLY=credit] [QUICK=1] [OUT=DIR]`.
#
# A benchmark NAME is the folder benches/NAME. Its bench_*.py run in an environment
# with verl, those in benches/NAME/trl in one with the newest TRL, because the two
# need different transformers, those in benches/NAME/search in one with the other
# searches. Rows are joined into OUT/NAME.json.
# BENCH_VERL, BENCH_TRL and BENCH_SEARCH name environments to use instead of making
# them; what is installed there as apportion is then measured. ARGS goes to pytest.
set -eu
cd "$(dirname "$0")/.."
out=${OUT:-bench-results}
names=$(for folder in benches/*/; do
  if ls "$folder"bench_*.py "$folder"*/bench_*.py 2>/dev/null | grep -q .; then
    basename "$folder"
  fi
done)
only=${ONLY:-$names}
for name in $only; do
  if ! echo "$names" | grep -qx "$name"; then
    echo "unknown benchmark '$name', expected one of:" $names >&2
    exit 2
  fi
done

# One thread everywhere unless a benchmark asks for more.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
export QUICK=${QUICK:-} PYTHONDONTWRITEBYTECODE=1

# new_environment DIR LANE: what LANE's peer needs, then pytest-benchmark.
new_environment() {
  if [ ! -e "$1/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --upgrade pip
    case $2 in
      verl)
        "$1/bin/python" -m pip install --quiet -r tests/verl/requirements.txt
        "$1/bin/python" -m pip install --quiet --no-deps 'verl==0.9.1'
        ;;
      trl) "$1/bin/python" -m pip install --quiet 'trl>=1.16' torch ;;
      search)
        "$1/bin/python" -m pip install --quiet 'numpy>=1.24' jax mctx open_spiel tqdm
        "$1/bin/python" -m pip install --quiet --no-deps llm-reasoners
        ;;
    esac
    "$1/bin/python" -m pip install --quiet pytest 'pytest-benchmark>=4'
    touch "$1/.ready"
  fi
}

wheels=
install_release() {
  if [ -z "$wheels" ]; then
    wheels=$(mktemp -d)
    "$1/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" .
  fi
  "$1/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheels"/*.whl
}

failed=0  # what was measured is written all the same
rows=$(mktemp -d)
trap 'rm -rf "$rows" "$wheels"' EXIT
for lane in verl trl search; do
  case $lane in
    verl) given=${BENCH_VERL:-} folder=. ;;
    trl) given=${BENCH_TRL:-} folder=trl ;;
    search) given=${BENCH_SEARCH:-} folder=search ;;
  esac
  made=
  for name in $only; do
    files=$(ls benches/"$name/$folder"/bench_*.py 2>/dev/null || true)
    [ -n "$files" ] || continue
    venv=${given:-.venv-bench-$lane}
    if [ -z "$given$made" ]; then
      new_environment "$venv" "$lane"
      install_release "$venv"
      made=1
    fi
    BENCH_ROWS="$rows/$name.$lane.json" "$venv/bin/python" -m pytest $files \
      -c benches/pytest.ini --rootdir benches ${ARGS:-} || failed=1
  done
done
for name in $only; do
  "$venv/bin/python" benches/table.py "$name" "$out" "$rows/$name".*.json
done
exit "$failed"
