#!/bin/sh
# Short benchmarks as tests: every key is there and every number makes sense. Says nothing of speed: the machine may be
# busy. Ends with a line like ctest's.
cd "$(dirname -- "$0")/.." || exit 1

# value KEY JSON: what stands behind the key, without quotes; nothing where there is no such key.
value() { printf '%s\n' "$2" | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }

# holds VALUE CONDITION: whether VALUE is a number for which awk's CONDITION on x is true.
holds() { printf '%s\n' "$1" | awk "{ x = \$1 + 0; exit !(\$1 ~ /^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?\$/ && ($2)) }"; }

# check_result JSON MODEL WORKERS: prints what is wrong with a result, nothing where it is as it should be.
check_result() {
  [ "$(value model "$1")" = "$2" ] || echo "model is not $2"
  [ "$(value workers "$1")" = "$3" ] || echo "workers is not $3"
  [ "$(value threads_per_worker "$1")" = 1 ] || echo "threads_per_worker is not 1"
  [ "$(value batch_per_worker "$1")" = 16 ] || echo "batch_per_worker is not 16"
  [ "$(value precision "$1")" = fp32 ] || echo "precision is not fp32"
  for key in images_per_s median_step_ms p99_step_ms compute_ms comm_ms pss_mib; do
    holds "$(value $key "$1")" 'x > 0' || echo "$key is not positive"
  done
  holds "$(value sync_ms "$1")" 'x >= 0' || echo "sync_ms is not a time"
  holds "$(value p99_step_ms "$1")" "x >= $(value median_step_ms "$1")" || echo "p99_step_ms is below the median"
}

total=0 failed=0
for model in mlp simplecnn; do
  for workers in 1 2; do
    total=$((total + 1))
    if json=$(./annulus bench train --model $model --workers $workers --batch-per-worker 16 --steps 20 --json) &&
      wrong=$(check_result "$json" $model $workers) && [ -z "$wrong" ]; then
      echo "bench train, $model, $workers workers: passed: $json"
    else
      echo "bench train, $model, $workers workers: FAILED: ${wrong:-the command failed}: $json"
      failed=$((failed + 1))
    fi
  done
done
# check_lines NAME LINES KEYS: whether so many JSON objects came, in which all these keys are positive.
check_lines() {
  total=$((total + 1)) lines=0 wrong=
  while read -r json; do
    lines=$((lines + 1))
    for key in $3; do
      holds "$(value "$key" "$json")" 'x > 0' || wrong="$key is not positive in $json"
    done
  done <"$results"
  [ $lines = "$2" ] || wrong="$lines results instead of $2"
  if [ -z "$wrong" ]; then
    echo "$1: passed: $lines results"
  else
    echo "$1: FAILED: $wrong"
    failed=$((failed + 1))
  fi
}

results=$(mktemp)
trap 'rm -f "$results"' EXIT
times="workers min_us median_us p99_us max_us floor_us ratio_to_floor"
# Per size three results of all-reduce, two of each other collective; one of barrier, which has no size.
./annulus bench collectives --collective all --workers 2 --bytes 4K,1M --json >"$results"
check_lines "bench collectives, all, 2 workers" 27 "$times"
for algorithm in direct ring hierarchical; do
  ./annulus bench collectives --workers 2 --algorithm $algorithm --bytes 64K --dtype bf16 --json >"$results"
  check_lines "bench collectives, $algorithm, bf16" 3 "$times gbps"
done
./annulus bench collectives --collective all --workers 2 --transport tcp --bytes 4K,1M --json >"$results"
check_lines "bench collectives over TCP" 13 "$times"
# Four times as many ranks as cores take turns on them.
./annulus bench collectives --workers $((4 * $(nproc))) --bytes 4K,1M --json >"$results"
check_lines "bench collectives, four ranks a core" 6 "$times"
./annulus bench update --workers 2 --bytes 1M,4M --json >"$results"
check_lines "bench update" 2 "workers median_us copy_gbps ideal_us ratio_to_copy"
# Five operations for each ratio, then four conversions.
./annulus bench compression --ratio 0.1,0.001 --bytes 64K,1M --json >"$results"
check_lines "bench compression" 28 "bytes rounds min_us median_us p99_us gbps encoded_bytes saved"

./annulus bench compression --model mlp --ratio 0.1,0.01 --batch 8 --steps 2 --json >"$results"
check_lines "bench compression, model" 2 \
  "bytes encode_ms decode_ms min_ms median_ms p99_ms gbps encoded_bytes saved forward_backward_ms share"

# Hosts are network namespaces, which take root and iproute2.
if unshare --net ip link >/dev/null 2>&1; then
  ./annulus bench bridge --nodes 3 --bytes 4K,1M --json >"$results"
  check_lines "bench bridge, sizes" 2 "hosts workers bytes rounds min_us median_us p99_us gbps cpu_ms"
  ./annulus bench bridge --nodes 2 --model mlp --json >"$results"
  check_lines "bench bridge, model" 3 "hosts workers bytes sent_bytes median_ms p99_ms cpu_ms speed_up"
else
  echo "bench bridge: SKIPPED: network namespaces cannot be made"
fi

./annulus bench accuracy --dataset synthetic --model mlp --steps 20 --seeds 2 --ratio 0.07 --json >"$results"
check_lines "bench accuracy" 4 "ratio steps test_accuracy"

./annulus bench train --model resnet18 --precision bf16 --precision-fallback on --workers 2 --batch-per-worker 2 \
  --steps 2 --json >"$results"
check_lines "bench train, resnet18, bf16" 1 "workers images_per_s median_step_ms compute_ms pss_mib"
# A line for each kernel, then one for the step.
./annulus bench layers --model simplecnn --batch 8 --steps 2 --json >"$results"
kernels=$(($(wc -l <"$results") - 1))
tail -n 1 "$results" >"$results.step" && sed -i '$d' "$results"
check_lines "bench layers, kernels" $kernels "ms alone_ms gbytes_per_s"
mv "$results.step" "$results"
check_lines "bench layers, step" 1 "step_ms loss_ms update_ms parts_alone_ms ratio_to_parts peak_gflops peak_gbps"

# Three figures, the step beside them, and whether the bits are the same; the command fails where they are not.
total=$((total + 1))
if ./annulus bench recovery --model mlp --workers 2 --kills 5 --json >"$results" &&
  tail -n 1 "$results" | grep -q '"kills":5,.*"same_bits":true'; then
  sed -i '$d' "$results"
  check_lines "bench recovery, times" 4 "samples median_ms p99_ms max_ms"
  echo "bench recovery: passed: same bits"
else
  echo "bench recovery: FAILED: $(tail -n 1 "$results")"
  failed=$((failed + 1))
fi

echo "$((100 * (total - failed) / total))% tests passed, $failed tests failed out of $total"
[ $failed = 0 ]
