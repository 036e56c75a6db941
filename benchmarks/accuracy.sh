#!/usr/bin/env bash
# Measures the table of the README (default), and more. schedules.sh measures query budgets and draws figures of both. The paper's tables can reuse these
# records: maskrestore reproduce tableA3 --train --known $results/cifar10.jsonl --known $results/gtsrb.jsonl --out $results/local
# Needs MASKRESTORE_DATA (a folder with cifar10/, gtsrb/, imagenette/ and lfw62/). --train trains missing victims into the cache (hours on two cores).
# Existing records are kept. After a change of the defaults delete the files first: a table refuses records of different
# settings under the same name.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
run=(maskrestore evaluate --victim width=32 --train)
results=benchmarks/results
what=${1:-all}

if [[ $what == cifar10 || $what == all ]]; then
  "${run[@]}" --dataset cifar10 --defense bdmae --defense bdmae-paper --out $results/cifar10.jsonl \
    --attack none --attack badnets:1x1-color --attack badnets:1x1-white --attack badnets:2x2-color \
    --attack badnets:2x2-white --attack badnets:3x3-color --attack badnets:3x3-white --attack corners --attack blended:15x15 \
    --attack label-consistent --attack input-aware
  "${run[@]}" --dataset cifar10 --defense bdmae-fast --defense bdmae-paper-fast --out $results/cifar10.jsonl \
    --attack none --attack badnets:1x1-color --attack badnets:2x2-white --attack badnets:3x3-color
fi
if [[ $what == gtsrb || $what == all ]]; then
  "${run[@]}" --dataset gtsrb --out $results/gtsrb.jsonl \
    --defense bdmae --defense bdmae-paper --defense bdmae-fast --defense bdmae-paper-fast \
    --attack none --attack badnets:3x3-color --attack badnets:2x2-white
fi
if [[ $what == all-to-all || $what == all ]]; then
  "${run[@]}" --victim mode=all-to-all --dataset cifar10 --defense bdmae --out $results/all-to-all.jsonl \
    --attack badnets:3x3-color
fi
if [[ $what == default || $what == all ]]; then
  # The README's table. Victims that are fine-tuned for half the usual time, that of wanet for a third.
  few=(--dataset cifar10 --victim width=32 --train)
  short=(--victim recipe.epochs=0.5)
  compared() {
    "$@" "${few[@]}" "${short[@]}" --victim mode=all-to-all --attack badnets:3x3-color
    "$@" "${few[@]}" --victim recipe.epochs=1 --attack wanet
    "$@" "${few[@]}" "${short[@]}" --attack badnets:3x3-color --attack blended:15x15 --attack blended:full --attack sig \
      --attack low-frequency --attack bpp --attack repeated --attack low-contrast --attack adap-blend --attack refool
  }
  evaluated=(maskrestore evaluate --clean 200 --triggered 200 --out $results/default.jsonl
    --defense none --defense bdmae --defense bdmae-fast)
  compared "${evaluated[@]}"
  "${evaluated[@]}" "${few[@]}" "${short[@]}" --attack corners
  compared maskrestore detect --clean 100 --triggered 100 --out $results/suspicion.jsonl \
    --detector strip --detector scale-up --detector teco --detector bbcal
  clean=(maskrestore evaluate --victim width=32 --train --attack none --clean 500
    --defense none --defense bdmae --defense bdmae-fast --out $results/default.jsonl)
  "${clean[@]}" --dataset cifar10
  "${clean[@]}" --dataset cifar10 --victim architecture=vit-small
  "${clean[@]}" --dataset gtsrb
fi
if [[ $what == photographs || $what == all ]]; then
  # The first table of the guide to photographs. Its other rows are of an earlier default.
  photographs=(maskrestore evaluate --train --defense bdmae --defense bdmae-fast --out $results/photographs.jsonl)
  "${photographs[@]}" --dataset imagenette --clean 300 --triggered 300 \
    --attack none --attack badnets:icon-flower --attack blended:105x105
  "${photographs[@]}" --dataset lfw62 --clean 300 --triggered 300 \
    --attack none --attack badnets:icon-flower --attack badnets:icon-heart --attack badnets:icon-phone
  small=("${photographs[@]}" --dataset imagenette-128 --victim width=32)
  "${small[@]}" --clean 300 --attack none
  "${small[@]}" --clean 150 --triggered 150 --attack badnets:icon-heart --attack corners
fi
if [[ $what == parts || $what == all ]]; then
  # The effect of each part: the paper's method and the default, with one setting changed at a time.
  part() {
    "${run[@]}" --dataset cifar10 --out $results/parts.jsonl --clean 250 --triggered 250 "$@" \
      --attack none --attack badnets:1x1-color --attack badnets:3x3-color --attack corners
  }
  part --defense bdmae --defense bdmae-paper
  part --defense bdmae-paper --set refinement=none
  part --defense bdmae-paper --set scores.label_weight=0       # S_i only
  part --defense bdmae-paper --set scores.label_weight=1       # S_l only
  part --defense bdmae-paper --set restoration.thresholds=0.5       # one threshold in place of the fused set
  part --defense bdmae-paper --set scores.label_score=contrast
  part --defense bdmae --set scores.label_score=flip
  part --defense bdmae --set squares=none
  part --defense bdmae --set transfer_test.cloud_grids=4,8,16 --set squares.cloud_grids=4,8,16
  part --defense bdmae --set squares=none --set restoration.attempts=0 --set scattered=none --set all_to_all=none --set necessity=none --set transfer_test=none
  part --defense bdmae --set restoration.attempts=0 --set squares=none
  part --defense bdmae --set scores.label_weight=0
  part --defense bdmae --set scores.label_weight=1
  part --defense bdmae --set scores.consensus=false
  part --defense bdmae --set refinement.steps=10
  part --defense bdmae --set restoration.thresholds=0.5
fi
if [[ $what == restorer || $what == all ]]; then
  python benchmarks/restorer_quality.py --out $results/restorer-cifar10.json
fi
for name in cifar10 gtsrb parts; do
  if [[ -f $results/$name.jsonl ]]; then maskrestore table $results/$name.jsonl --out $results/$name.md; fi
done
