#!/usr/bin/env bash
# The demo: installs what is missing, builds, renders jobs/demo.json with two MPI ranks (on two GPUs, on one together, or on the CPU)
# and draws its contact sheet.
# Options go to `ksweep run` (for instance --set seed.count=4).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=jobs/setup.sh
source jobs/setup.sh

install_packages "${build_packages[@]}"
# shellcheck disable=SC2046
build_preset release ksweep -DKSWEEP_TESTS=OFF $(gpu_options)
mkdir -p out
run_ranks 2 build/release/src/cli/ksweep run jobs/demo.json --progress 5 --share-gpus "$@"
build/release/src/cli/ksweep sheet out/demo.h5 -x positive -y cfg -o out/demo.png >/dev/null
echo "contact sheet: $PWD/out/demo.png"
echo "HDF5 file:     $PWD/out/demo.h5"
