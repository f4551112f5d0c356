#!/usr/bin/env bash
# Whole runs of ksweep on a GPU:
#   runs.sh mixed       a mixed sweep keeps the rows of its calls filled until the last lease
#   runs.sh accuracy    the demo model draws what it is asked for in every precision; in fp32 as on the CPU
#   runs.sh faults      a fault in a launch, and memory refused, end in a clear line and an output that goes on
#   runs.sh memory      too little memory is said before anything is rendered, and decides the batch rows
#   runs.sh shared      two ranks on one GPU are refused; with --share-gpus they render what one renders, bit by bit
#   runs.sh sanitizer   compute-sanitizer finds nothing wrong in a short demo, nor in the kernels' own test
# KSWEEP_BIN: the program; FAULT_SHIM: the library of fault_shim.c; KERNELS_TEST: test_gpu_kernels; MPIRUN: mpirun;
# PYTHON: one with h5py. Exit status 77: there is no GPU, or no compute-sanitizer.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
ksweep=${KSWEEP_BIN:?the program to test}
nvidia-smi >/dev/null 2>&1 || { echo "no NVIDIA GPU here"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
out=$folder/out.h5

fail() {
  echo "FAILED: $*"
  for log in "$folder"/*.log; do
    [ ! -s "$log" ] || { echo "--- $log"; tail -n 20 "$log"; }
  done
  exit 1
}

launcher=()
# run LOG EXPECTED-STATUS [VARIABLE=VALUE...] -- ARGUMENTS: ksweep with them; its output goes to LOG.
run() {
  local log=$folder/$1.log expected=$2 variables=() status=0
  shift 2
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  env "${variables[@]}" "${launcher[@]}" "$ksweep" "$@" >"$log" 2>&1 || status=$?
  case " $expected " in
    *" $status "*) ;;
    *) fail "ksweep $* ended with $status, not with $expected" ;;
  esac
  last_status=$status
}

says() {
  grep -q -- "$2" "$folder/$1.log" || fail "$1 does not say: $2"
}

sweep=("$root/jobs/demo.json" -o "$out" --set device=cuda --set output.images=false)

mixed() {
  run mixed 0 -- run "${sweep[@]}" --set 'steps=[10,20,30,40,50]' --set 'cfg=[1,3,8]' --set seed.count=12 \
    --set 'sampler_name=["euler","dpmpp_2m","dpmpp_sde","euler_ancestral","heun"]'
  cat "$folder/mixed.log"
  filled=$(sed -n 's/.*, \([0-9.]*\) % of rows filled.*/\1/p' "$folder/mixed.log")
  [ -n "$filled" ] || fail "the summary does not tell the rows filled"
  awk -v filled="$filled" 'BEGIN { exit !(filled >= 97) }' || fail "$filled % of rows filled, and 97 % must be"
}

# Colours and shapes of forty prompts, as the CPU's test judges them; and a whole sweep's latents beside the CPU's. In half precision a
# latent goes its own way where the network is undecided, so there the pictures are judged alone.
accuracy() {
  local precision
  for precision in fp32 fp16 bf16; do
    run accuracy-$precision 0 -- run "$root/tests/e2e/jobs/accuracy.json" -o "$folder/$precision.h5" --set device=cuda --set precision=$precision
    "$PYTHON" "$root/tests/e2e/judge.py" "$folder/$precision.h5" --at-least 0.95 || fail "pictures in $precision are not what was asked for"
  done
  run demo-cuda 0 -- run "${sweep[@]}" --set precision=fp32
  run demo-cpu 0 -- run "${sweep[@]}" -o "$folder/cpu.h5" --set device=cpu
  "$PYTHON" - "$out" "$folder/cpu.h5" "$folder"/*16.h5 "$folder/fp32.h5" <<'END' || fail "the GPU's latents in fp32 are not the CPU's"
import sys
import h5py
import numpy as np
def latents(path):
    return np.asarray(h5py.File(path, "r")["latents"], np.float64)
gpu, cpu, *halves, whole = sys.argv[1:]
def error(a, b):
    return np.linalg.norm(latents(a) - latents(b)) / np.linalg.norm(latents(b))
for half in halves:
    print(f"{half.rsplit('/')[-1]} against fp32: {error(half, whole):.1e}")
print(f"fp32 on the GPU against the CPU: {error(gpu, cpu):.1e} (bound 1e-4)")
sys.exit(not error(gpu, cpu) <= 1e-4)
END
}

# The output goes on to its end, and some of its samples rendered again have the same bits.
goes_on() {
  run goes-on 0 -- run "${sweep[@]}" --set seed.count=30
  run verify 0 -- verify "$out" --sample 4
}

faults() {
  local number
  for number in 2 150; do
    rm -rf "$out" "$out.d"
    run fault-$number '2 75' "LD_PRELOAD=$FAULT_SHIM" "FAULT_LAUNCH=$number" -- run "${sweep[@]}" --set seed.count=30
    says fault-$number 'GPU 0: '
    cat "$folder/fault-$number.log"
    goes_on
  done
  rm -rf "$out" "$out.d"
  for number in 3 8 14 20 30 60 200 1000; do
    run malloc-$number '0 2 75' "LD_PRELOAD=$FAULT_SHIM" "FAULT_MALLOC=$number" -- run "${sweep[@]}" --set seed.count=30
    echo "allocation $number refused: exit $last_status: $(grep 'no memory\|memory' "$folder/malloc-$number.log" | head -n 1)"
    [ "$last_status" = 0 ] && break
    says malloc-$number 'GPU 0: '
  done
  goes_on
}

# The fault after 150 graph launches comes when samples are done: that output must be resumable.
faults_in_the_middle_are_resumable() {
  rm -rf "$out" "$out.d"
  run middle 75 "LD_PRELOAD=$FAULT_SHIM" FAULT_LAUNCH=150 -- run "${sweep[@]}" --set seed.count=30
  run status 75 -- status "$out"
  cat "$folder/status.log"
  kept=$(sed -n '1s/^.*: \([0-9]*\).*/\1/p' "$folder/status.log")
  [ "${kept:-0}" -gt 0 ] || fail "nothing of what was rendered before the fault is there"
  goes_on
}

memory() {
  run none 2 "LD_PRELOAD=$FAULT_SHIM" FAULT_FREE=20000000 -- run "${sweep[@]}"
  cat "$folder/none.log"
  [ "$(wc -l <"$folder/none.log")" = 1 ] || fail "more than one line"
  says none 'MiB'
  [ ! -e "$out" ] || fail "an output was made"
  run plenty 0 -- plan "${sweep[@]}" --set latent_image.width=2048 --set latent_image.height=2048
  run little 0 "LD_PRELOAD=$FAULT_SHIM" FAULT_FREE=2000000000 -- plan "${sweep[@]}" \
    --set latent_image.width=2048 --set latent_image.height=2048
  rows() { sed -n 's/^network rows:.*, \([0-9]*\) in each call.*/\1/p' "$folder/$1.log"; }
  echo "rows with all memory: $(rows plenty); with 2 GB: $(rows little)"
  [ "$(rows little)" -lt "$(rows plenty)" ] || fail "memory does not decide the batch rows"
}

shared() {
  export CUDA_VISIBLE_DEVICES=0 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  sweep+=(--set parallel.batch_rows=8)
  run alone 0 -- run "${sweep[@]}"
  launcher=("$MPIRUN" -n 2 --oversubscribe)
  run refused 2 -- run "${sweep[@]}" -o "$folder/two.h5"
  says refused '2 ranks on this node and 1 GPU'
  [ ! -e "$folder/two.h5" ] || fail "an output was made"
  run two 0 -- run "${sweep[@]}" -o "$folder/two.h5" --share-gpus
  says two 'samples rendered in .* on 2 ranks'
  "$PYTHON" - "$out" "$folder/two.h5" <<'END' || fail "two ranks on one GPU render other latents than one"
import sys
import h5py
alone, two = (h5py.File(path, "r") for path in sys.argv[1:])
sys.exit(any(alone[name][:].tobytes() != two[name][:].tobytes() for name in ("checks", "latents")))
END
}

# memcheck LOG COMMAND...: with it, the command has no report.
memcheck() {
  local name=$1 log=$folder/$1.log status=0
  shift
  "$tool" --tool memcheck --leak-check no --error-exitcode 99 --print-limit 3 "$@" >"$log" 2>&1 || status=$?
  tail -n 5 "$log"
  if [ $status != 0 ]; then
    grep -m 60 '^=========' "$log" || true # the first reports say where
    fail "compute-sanitizer ended with $status"
  fi
  says "$name" 'ERROR SUMMARY: 0 errors'
}

sanitizer() {
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1) || true
  [ -n "$tool" ] || { echo "no compute-sanitizer here"; exit 77; }
  memcheck demo "$ksweep" run "$root/jobs/demo.json" -o "$out" --set device=cuda --set steps=2 --set seed.count=1 \
    --set 'sampler_name=["dpmpp_sde","dpm_adaptive"]'
  memcheck kernels "$KERNELS_TEST" --check # shapes that the demo has not
}

case "${1-}" in
  mixed | accuracy | memory | shared | sanitizer) "$1" ;;
  faults) faults; faults_in_the_middle_are_resumable ;;
  *) sed -n '2,10p' "$0" >&2; exit 2 ;;
esac
echo "passed"
