#!/usr/bin/env bash
# Schedules and budgets of queries: the records in benchmarks/results/schedules/ and queries/, and the figure in docs/.
# The records in the repository are of WIDTH=16. Delete the folders first after a change of the defaults.
# Needs MASKRESTORE_DATA. WIDTH scales the victims' channels (64 is the full network); --train fills their cache.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
run=(maskrestore evaluate --victim width="${WIDTH:-32}" --train --dataset "${DATASET:-gtsrb}")
results=benchmarks/results
what=${1:-all}

if [[ $what == schedules || $what == all ]]; then
  "${run[@]}" --out $results/schedules --clean 250 --triggered 250 \
    --attack none --attack badnets:2x2-white --attack badnets:3x3-color \
    --defense bdmae --defense bdmae-fast --defense bdmae-paper --defense bdmae-paper-fast
fi
if [[ $what == queries || $what == all ]]; then
  for queries in 1 2 3 5 9 10 15 20 25 30 34 43 47; do
    "${run[@]}" --out $results/queries --clean 150 --triggered 150 --attack badnets:2x2-white \
      --defense bdmae --max-queries $queries
  done
  "${run[@]}" --out $results/queries --clean 150 --triggered 150 --attack badnets:2x2-white --defense bdmae-fast
fi
if [[ $what == schedules || $what == all ]]; then maskrestore table $results/schedules > $results/schedules.md; fi
if [[ $what == queries || $what == all ]]; then
  python -m benchmarks.query_curve $results/queries docs/queries.png
fi
