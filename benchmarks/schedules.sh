#!/usr/bin/env bash
# What schedules and budgets of queries bring: the records in benchmarks/results/queries/ and fast-clean/, and two figures in docs/; one of them
# from the records of accuracy.sh. Delete the folder first after a change of the defaults.
# Needs MASKRESTORE_DATA. WIDTH scales the victims' channels (64 is the full network); --train fills their cache.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
run=(maskrestore evaluate --victim width="${WIDTH:-32}" --train --dataset "${DATASET:-gtsrb}" --attack badnets:2x2-white)
results=benchmarks/results

for queries in 1 2 3 5 9 10 15 20 25 30 34 43 47; do
  "${run[@]}" --out $results/queries --clean 150 --triggered 150 --defense bdmae --max-queries $queries
done
"${run[@]}" --out $results/queries --clean 150 --triggered 150 --defense bdmae-fast
# What clean images cost: the median is in these records only.
for dataset in cifar10 gtsrb; do
  maskrestore evaluate --victim width=32 --train --dataset $dataset --attack none --defense bdmae-fast --out $results/fast-clean
done
python -m benchmarks.query_curve $results/queries docs/queries.png
python -m benchmarks.pareto docs/pareto.png $results/cifar10 $results/gtsrb
