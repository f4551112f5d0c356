#!/usr/bin/env bash
# Installs, builds, and runs every test that this machine can run; says what it skipped and why.
#   tests/run.sh          everything but the GPU's
#   tests/run.sh --gpu    the GPU's tests alone
#   tests/run.sh --quick  without the sanitizer and valgrind runs
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=jobs/setup.sh
source jobs/setup.sh

quick=
case "${1-}" in
  --gpu) echo "skipped: this version renders on the CPU only and has no GPU tests"; exit 0 ;;
  --quick) quick=1 ;;
  "") ;;
  *) echo "usage: tests/run.sh [--gpu | --quick]" >&2; exit 2 ;;
esac

install_packages "${build_packages[@]}" libcmocka-dev python3 python3-h5py python3-numpy python3-jsonschema valgrind mandoc \
  slurm-wlm munge
skipped=()

echo "== release build, warnings are errors"
build_preset release all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON
if [ -z "$quick" ]; then
  echo "== build with AddressSanitizer and UndefinedBehaviorSanitizer"
  build_preset asan all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON
  echo "== unit tests under the sanitizers"
  ctest --test-dir build/asan -L unit --output-on-failure -j "$(nproc)"
else
  skipped+=("the sanitizer and valgrind runs: --quick")
fi
command -v nvcc >/dev/null && skipped+=("kernels/: there are none in this version")
command -v nvidia-smi >/dev/null || skipped+=("GPU tests: no GPU here")

echo "== all tests"
label=()
[ -n "$quick" ] && label=(-LE slow)
ctest --test-dir build/release "${label[@]}" --output-on-failure -j "$(nproc)"
for reason in "${skipped[@]}"; do
  echo "skipped: $reason"
done
