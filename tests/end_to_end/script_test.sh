#!/usr/bin/env bash
# Tests the script at the root: what it installs, builds and runs, on a checkout with a tiny program, and on systems
# that are pretended by commands in front of PATH. Needs no root and installs nothing.
# script_test.sh SOURCE: the checkout whose script is tested.
set -uo pipefail
unset ANNULUS_NO_INSTALL ANNULUS_WERROR
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

expect() {  # WHAT CONDITION...
  local what=$1
  shift
  if "$@"; then echo "ok: $what"; else
    echo "FAILED: $what"
    sed 's/^/  | /' "$work/out" "$work/err" 2>/dev/null
    failures=$((failures + 1))
  fi
}
run() { "$@" >"$work/out" 2>"$work/err" </dev/null; status=$?; }
ends_with() { [[ $status == "$1" ]]; }
says() { grep -qF -- "$1" "$work/err"; }
prints() { [[ $(<"$work/out") == "$1" ]]; }

new_checkout() {
  rm -rf "$work/checkout" && mkdir "$work/checkout"
  cp "$source/annulus" "$work/checkout/"
  cat >"$work/checkout/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(tiny LANGUAGES CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(annulus main.cpp)
add_executable(other other.cpp)
enable_testing()
add_test(NAME one COMMAND other)
END
  cat >"$work/checkout/CMakePresets.json" <<'END'
{"version": 6, "configurePresets": [{"name": "release", "generator": "Ninja", "binaryDir": "${sourceDir}/build/release"}]}
END
  cat >"$work/checkout/main.cpp" <<'END'
#include <cstdio>
int main(int n, char** a) {
  for (int i = 1; i < n; ++i) std::printf("<%s>", a[i]);
  return n == 3 ? 7 : 0;
}
END
  echo 'int main() {}' >"$work/checkout/other.cpp"
}

# Commands in front of PATH: fake NAME BODY.
fake() { printf '#!/bin/bash\n%s\n' "$2" >"$work/fakes/$1" && chmod +x "$work/fakes/$1"; }
no_fakes() {
  rm -rf "$work/fakes" "$work/log" "$work/installed" && mkdir "$work/fakes"
  # A system that has everything: the test must not depend on the packages of this one.
  fake dpkg-query "echo dpkg-query >>$work/log; shift 3; for p; do echo \"ii |\$p\"; done"
}
pretending() { PATH="$work/fakes:$PATH" "$@"; }
# Two packages are missing until apt-get install ran.
missing_two() {
  fake dpkg-query "shift 3; for p; do
    if [[ ! -e $work/installed && \$p == libhwy-dev ]]; then echo 'un |libhwy-dev'; continue; fi
    [[ ! -e $work/installed && \$p == g++ ]] || echo \"ii |\$p\"; done; exit 1"
  fake apt-get "echo \"apt-get \$*\" >>$work/log; [[ \$* != *install* ]] || touch $work/installed"
}

new_checkout
no_fakes
mkdir -p "$work/else where"
cd "$work/else where" || exit 1

run pretending "$work/checkout/annulus" train "two words"
expect "a fresh checkout builds and runs, arguments and exit code pass through" ends_with 7
expect "only the program writes to stdout" prints "<train><two words>"
expect "only the program is built" test ! -e "$work/checkout/build/release/bin/other"

before=$(stat -c %Y.%i "$work/checkout/build/release/bin/annulus")
: >"$work/log"
ln -s "$work/checkout/annulus" link && ln -s "$PWD/link" link2
run pretending ./link2 a b c
expect "it runs through symbolic links from another directory" prints "<a><b><c>"
expect "a second run says nothing" test ! -s "$work/err"
expect "a second run builds nothing" test "$before" == "$(stat -c %Y.%i "$work/checkout/build/release/bin/annulus")"
expect "a second run asks for no packages" test ! -s "$work/log"

run pretending "$work/checkout/annulus" test
expect "test builds and runs the tests" ends_with 0
expect "test ends with ctest's summary" grep -q "100% tests passed, 0 tests failed out of 1" "$work/out"
echo 'int main() { return 1; }' >"$work/checkout/other.cpp"
run pretending "$work/checkout/annulus" test
expect "a failing test fails" test "$status" != 0
expect "a failing test is counted" grep -q "0% tests passed, 1 tests failed out of 1" "$work/out"

echo 'int main() { return undeclared_name; }' >"$work/checkout/main.cpp"
run pretending "$work/checkout/annulus"
expect "a build that fails ends with 2" ends_with 2
expect "a build that fails shows the compiler's message" says undeclared_name

# Another build is under way for as long as this descriptor holds the lock.
new_checkout
mkdir "$work/checkout/build"
exec 8>"$work/checkout/build/.lock" && flock 8
(exec 8>&-; pretending "$work/checkout/annulus" second >"$work/out" 2>"$work/err") &
for _ in {1..200}; do says "waiting for another build" && break; sleep 0.05; done
expect "a second build waits for the first" says "waiting for another build"
expect "it builds nothing meanwhile" test ! -e "$work/checkout/build/release/build.ninja"
exec 8>&-
wait $!
expect "it goes on after the first" prints "<second>"

new_checkout
no_fakes
missing_two
fake id 'echo 0'
ANNULUS_NO_INSTALL=1 run pretending "$work/checkout/annulus" train
expect "ANNULUS_NO_INSTALL stops with 2" ends_with 2
expect "it prints the command" prints \
  "apt-get update && apt-get install -y --no-install-recommends g++ libhwy-dev"
expect "it builds nothing" test ! -e "$work/checkout/build"
expect "it installs nothing" test ! -e "$work/installed"

fake id 'echo 1000'
ANNULUS_NO_INSTALL=1 run pretending "$work/checkout/annulus" train
expect "it prints sudo for a user" prints \
  "sudo apt-get update && sudo apt-get install -y --no-install-recommends g++ libhwy-dev"

fake sudo "echo sudo >>$work/log; exec \"\$@\""
run pretending "$work/checkout/annulus" train
expect "a user installs through sudo" test "$(grep -c sudo "$work/log")" == 2
expect "it updates the lists first" test "$(grep apt-get "$work/log" | head -1 | grep -c update)" == 1
expect "it installs exactly what is missing" grep -q "install --no-install-recommends g++ libhwy-dev\$" "$work/log"
expect "it says what it installs" says "missing Debian packages: g++ libhwy-dev"
expect "it goes on after installing" prints "<train>"

new_checkout
no_fakes
missing_two
fake id 'echo 0'
fake apt-get 'echo "E: no network" >&2; exit 100'
run pretending "$work/checkout/annulus" train
expect "a failed installation ends with 2" ends_with 2
expect "a failed installation shows apt-get's message" says "E: no network"

# A system without apt: PATH holds the named commands and nothing else.
no_fakes
rm "$work/fakes/dpkg-query"
for name in bash env readlink dirname uname id nproc awk mkdir flock grep; do
  ln -s "$(command -v "$name")" "$work/fakes/$name"
done
new_checkout
rm "$work/checkout/CMakeLists.txt"
PATH="$work/fakes" run "$work/checkout/annulus" train
expect "without apt a build that fails ends with 2" ends_with 2
expect "without apt it names the packages" says "libyaml-cpp-dev"

no_fakes
fake uname 'if [[ $1 == -s ]]; then echo Darwin; else echo x86_64; fi'
run pretending "$work/checkout/annulus" train
expect "another system is refused with 2" ends_with 2
expect "another system is refused with the reason" says "Darwin is not supported: workers share memory"
fake uname 'if [[ $1 == -s ]]; then echo Linux; else echo riscv64; fi'
run pretending "$work/checkout/annulus" train
expect "another machine is refused with 2" ends_with 2
expect "another machine is refused with the reason" says "riscv64 is not supported"

echo "$failures failed"
[[ $failures == 0 ]]
