#!/usr/bin/env bash
# Installs what ksweep is built from on Debian 12 and Ubuntu 24.04 (as root, or through sudo), and builds it.
#   jobs/setup.sh            packages for building and running, then the release build
# Sourced by jobs/demo.sh and tests/run.sh for its functions. A second run only looks that all is there.
set -euo pipefail

setup_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages=(
  build-essential cmake ninja-build pkg-config git
  libopenmpi-dev openmpi-bin libhdf5-dev libopenblas-dev libcjson-dev libxxhash-dev
  libssl-dev libutf8proc-dev libpng-dev libfreetype-dev libfontconfig-dev fonts-dejavu-core
)

# install_packages NAME...: those that are not there yet. Where they cannot be installed it says so and goes on: what is
# needed may have come by other means (CMAKE_PREFIX_PATH, PKG_CONFIG_PATH), and CMake says what it does not find.
install_packages() {
  local missing=() name sudo=()
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if ! command -v apt-get >/dev/null; then
    not_installed "this system has no apt-get" "${missing[@]}"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { not_installed "that takes root" "${missing[@]}"; return 0; }
    sudo=(sudo)
  fi
  echo "installing ${missing[*]}" >&2
  "${sudo[@]}" apt-get -qq update || true
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null ||
    not_installed "apt-get failed" "${missing[@]}"
}

# not_installed REASON NAME...
not_installed() {
  echo "these packages (Debian's names) are not installed, for $1: ${*:2}; going on with what is there" >&2
}

# build_preset PRESET TARGET [CMAKE OPTION...]: configures at the first time, builds what changed.
build_preset() {
  local preset=$1 target=$2 log
  shift 2
  log=$(mktemp)
  if ! { cmake -S "$setup_root" --preset "$preset" -G Ninja "$@" && cmake --build "$setup_root/build/$preset" --target "$target"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "the $preset build failed" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

# The architecture of the first NVIDIA GPU as CMake wants it ("90a"), or failure where there is none.
gpu_architecture() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
  case "$capability" in
    8.9) echo 89 ;;
    8.*) echo 80 ;;
    9.0) echo 90a ;;
    *) return 1 ;;
  esac
}

# CMake's options for the GPU that is there, or for none.
gpu_options() {
  local architecture
  if architecture=$(gpu_architecture); then
    echo "-DKSWEEP_CUDA=AUTO -DKSWEEP_CUDA_ARCHITECTURES=$architecture"
  else
    echo "-DKSWEEP_CUDA=OFF"
  fi
}

# mpirun with what a container, root and few cores ask for.
run_ranks() {
  local ranks=$1
  shift
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_base_warn_component_unused=0 \
    mpirun -n "$ranks" --oversubscribe --bind-to none "$@"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  install_packages "${build_packages[@]}"
  cd "$setup_root"
  # shellcheck disable=SC2046
  build_preset release ksweep -DKSWEEP_TESTS=OFF $(gpu_options)
  echo "build/release/src/cli/ksweep"
fi
