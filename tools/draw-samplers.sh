#!/usr/bin/env bash
# Makes docs/samplers.png and docs/schedulers.png with the demo model. Needs matplotlib for the second.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/release
cmake --preset release -G Ninja -DKSWEEP_BENCH=ON >/dev/null
cmake --build "$build" --target ksweep sigmas >/dev/null
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$build/src/cli/ksweep" run tools/samplers.json -o "$folder/samplers.h5"
"$build/src/cli/ksweep" sheet "$folder/samplers.h5" -x sampler_name -o docs/samplers.png
"$build/bench/sigmas" 20 | python3 tools/plot_sigmas.py docs/schedulers.png
