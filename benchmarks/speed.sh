#!/usr/bin/env bash
# The timings of docs/performance.md: the records in benchmarks/results/speed. They want a machine that does nothing else, for hours: the
# authors' schedule takes most of them. Without an argument everything; base, large, tiny, growth, busy or precision for a part.
# KIND goes into the names of the records, "amx" say; DEVICE=cuda runs on a GPU; INT8=1 times int8, too, for CPUs with VNNI.
# precision needs MASKRESTORE_DATA, and trains its victim if the cache lacks it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
what=${1:-all}
device=${DEVICE:-cpu}
results=benchmarks/results/speed
batches=(1 8 32)
if [[ $device != cpu ]]; then
  KIND=${KIND:-$device}
  batches=(1 32 128 256)
fi
kind=${KIND:+-$KIND}
int8=${INT8:+exact-int8}
measure=(python -m benchmarks.speed --device "$device")

for case in base large; do
  if [[ $what == "$case" || $what == all ]]; then
    "${measure[@]}" --cases $case --batches "${batches[@]}" --repeats 2 --contenders authors exact $int8 --out "$results/$case$kind.json"
  fi
done
if [[ $what == tiny || $what == all ]]; then
  for case in tiny-conv tiny-vit; do
    "${measure[@]}" --cases $case --contenders authors exact fast default-exact default-fast $int8 ${INT8:+default-fast-int8} \
      --out "$results/$case$kind.json"
  done
fi
if [[ $what == growth || $what == all ]] && [[ $device == cpu ]]; then
  python -m benchmarks.growth --counts 64 128 512 --sizes 32 64 128 224 --chunks 8 1 64 --out "$results/growth$kind.json"
fi
if [[ $what == busy || $what == all ]] && [[ $device == cpu ]]; then
  python -m benchmarks.busy --out "$results/busy$kind.json"
fi
if [[ $what == precision || $what == all ]]; then
  maskrestore train-victim --dataset cifar10 --attack badnets:3x3-color --set width=32
  lows=(bfloat16 ${INT8:+int8})
  [[ $device == cpu ]] && lows+=(direct)
  for low in "${lows[@]}"; do
    name=precision-${low/bfloat16/}-cifar10
    python -m benchmarks.precision --device "$device" --dataset cifar10 --attack badnets:3x3-color --count 1000 --low "$low" \
      --out "$results/${name/--/-}$kind.json"
  done
fi
