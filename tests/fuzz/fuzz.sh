#!/usr/bin/env bash
# Runs each fuzzer for some seconds, from the inputs in corpus/: fuzz.sh [SECONDS]. Ends with a line like ctest's.
# Needs Clang 14, and installs it as root on a system with apt; a line `SKIPPED: reason` where it cannot be had.
set -uo pipefail
cd "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../.." || exit 1
seconds=${1:-20}
build=build/fuzz

if ! command -v clang++-14 >/dev/null || [[ ! -e /usr/lib/llvm-14/lib/libomp.so ]] ||
  ! compgen -G '/usr/lib/llvm-14/lib/clang/14*/lib/linux/libclang_rt.fuzzer-*.a' >/dev/null; then
  { [[ $(id -u) == 0 && ${ANNULUS_NO_INSTALL:-0} != 1 ]] && apt-get -q update && DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y install --no-install-recommends clang-14 libclang-rt-14-dev libomp-14-dev; } ||
    { echo "SKIPPED: no clang-14 with libclang-rt-14-dev and libomp-14-dev"; exit 0; }
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Warnings are the other builds' business.
{ /usr/bin/cmake --preset fuzz -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_CXX_FLAGS=-w &&
  /usr/bin/cmake --build --preset fuzz; } >"$scratch/build" 2>&1 || { tail -n 100 "$scratch/build"; exit 1; }

total=0 failed=0
for corpus in tests/fuzz/corpus/*/; do
  name=$(basename "$corpus")
  total=$((total + 1))
  mkdir "$scratch/$name"
  # What is found goes to the first folder; the corpus is only read.
  if "$build/bin/$name" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 -artifact_prefix="$scratch/" \
    "$scratch/$name" "$corpus" >"$scratch/log" 2>&1; then
    echo "$name: passed: $(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/log") inputs," \
      "$(ls "$scratch/$name" | wc -l) of them kept"
  else
    tail -n 50 "$scratch/log"
    echo "$name: FAILED"
    failed=$((failed + 1))
  fi
done
echo "$((100 * (total - failed) / total))% tests passed, $failed tests failed out of $total"
[[ $failed == 0 ]]
