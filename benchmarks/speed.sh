#!/usr/bin/env bash
# Measures the timings of docs/development/performance.md, the records in benchmarks/results/speed. Needs an otherwise idle machine for hours, most of
# them for the authors' schedule. Without an argument it runs all parts; the argument base, large, photo, tiny, growth, busy or precision runs one.
# KIND, for example "amx", becomes part of the names of the records. DEVICE=cuda runs on a GPU. INT8=1 also times int8, on CPUs with VNNI.
# precision needs MASKRESTORE_DATA, and trains its victim if it is not in the cache.
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
if [[ $what == photo || $what == all ]]; then
  "${measure[@]}" --cases photo --batches "${batches[@]:0:2}" --repeats 3 --contenders authors exact default-exact default-fast \
    --out "$results/photo$kind.json"
fi
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
