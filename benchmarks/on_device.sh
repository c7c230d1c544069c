#!/usr/bin/env bash
# Tests and benchmark on the device of this machine; all that they say goes into one folder.
#   benchmarks/on_device.sh FOLDER CORPUS.npz [WHEELS]
# WHEELS: a folder of wheels of what the environment lacks, where nothing can be downloaded.
# PYTHON names another interpreter; its jax has to find the device.
set -uo pipefail
if [ $# -lt 2 ] || [ ! -f "$2" ]; then
  echo "usage: $0 FOLDER CORPUS.npz [WHEELS]" >&2
  exit 2
fi
out=$(realpath -m "$1") corpus=$(realpath "$2")
python=${PYTHON:-python3}
mkdir -p "$out"
if [ $# -ge 3 ]; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/site" "$3"/*.whl || exit 1
  export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}
fi
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$python" -c '
import jax
from cberl_jax.version import versions
print(jax.devices()[0].device_kind, len(jax.devices()), versions())
' > "$out/device.txt" || exit 1
cat "$out/device.txt"
status=0
# What computes; one process, since workers of pytest would share the device.
"$python" -m pytest -n 0 -q -p no:cacheprovider tests/test_losses.py tests/models \
  tests/training/test_steps.py > "$out/tests.txt" 2>&1 || status=1
tail -n 3 "$out/tests.txt"
"$python" -m cberl_jax benchmark --config=meld --data="$corpus" --out="$out/benchmark" \
  > "$out/benchmark.txt" 2>&1 || status=1
tail -n 3 "$out/benchmark.txt"
exit "$status"
