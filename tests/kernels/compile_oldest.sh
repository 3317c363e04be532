#!/bin/sh
# Compiles every form of the kernels for sm_90 with the oldest Triton that is tested, beside
# whatever torch the given Python has. Called by `make compile-oldest` and by CI.
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m pip install --quiet --no-deps --target "$folder" 'triton==3.6.0'
PYTHONPATH="$folder" "$1" -m apportion.kernels.aot
