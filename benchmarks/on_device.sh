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
# measure NAME [FLAG...]: a benchmark with other settings, in $out/NAME.
measure() {
  local name=$1
  shift
  "$python" -m cberl_jax benchmark --config=meld --data="$corpus" --out="$out/$name" "$@" \
    > "$out/$name.txt" 2>&1 || status=1
  tail -n 3 "$out/$name.txt"
}
measure benchmark
# What was never timed on a device: bfloat16 factors, larger batches, and on a GPU the loop over
# steps as one launch (a command buffer).
measure bfloat16 --sections=members --config.train.precision=bfloat16
measure rows16 --sections=members --config.train.rows_per_batch=16
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=+WHILE" \
  measure command_buffers --sections=members
exit "$status"
