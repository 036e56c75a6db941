#!/usr/bin/env bash
# Measures schedules and query budgets: writes the records in benchmarks/results/queries.jsonl and fast-clean.jsonl, and two figures in
# docs/images, one of them from the records of accuracy.sh. After a change of the defaults delete the files first.
# Needs MASKRESTORE_DATA. WIDTH is the width of the victims (64 is the full network); --train trains missing victims into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
run=(maskrestore evaluate --victim width="${WIDTH:-32}" --train --dataset "${DATASET:-gtsrb}" --attack badnets:2x2-white)
results=benchmarks/results

for queries in 1 2 3 5 9 10 15 20 25 30 34 43 47; do
  "${run[@]}" --out $results/queries.jsonl --clean 150 --triggered 150 --defense bdmae --max-queries $queries
done
"${run[@]}" --out $results/queries.jsonl --clean 150 --triggered 150 --defense bdmae-fast
# The cost of clean images; only these records hold the median.
for dataset in cifar10 gtsrb; do
  maskrestore evaluate --victim width=32 --train --dataset $dataset --attack none --defense bdmae-fast --out $results/fast-clean.jsonl
done
python -m benchmarks.query_curve $results/queries.jsonl docs/images/queries.png
python -m benchmarks.pareto docs/images/pareto.png $results/cifar10.jsonl $results/gtsrb.jsonl
