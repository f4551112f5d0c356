#!/usr/bin/env bash
# One UNet call of SDXL and SD 1.5 on this machine's GPU: ksweep, PyTorch eager and torch.compile, and ksweep again as a
# check that the machine did not drift; then one table.
#
#   bench/unet_gpu.sh BUILD [--folder DIR] [--logs DIR] [--model NAME] [--rows 16,2] [--no-compile] [OPTION ...]
#
# BUILD: a build folder with -DKSWEEP_BENCH=ON and CUDA. --folder: where the random checkpoints are made (5.1 and
# 1.7 GB; /dev/shm). --logs: keeps the programs' whole output, the clocks and the power there. --model: sdxl, sd15 or
# all. OPTION: for bench/unet_torch.py. PYTHON names the interpreter with torch and diffusers (python3).
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { sed -n '5s/^# */usage: /p' "$0" >&2; exit 2; }
bench=$1/bench/bench_unet_gpu
shift
folder=/dev/shm
logs=''
compile=--compile
shared=() torch=()
while [ $# -gt 0 ]; do
  case $1 in
    --folder) folder=$2; shift 2 ;;
    --logs) logs=$2; shift 2 ;;
    --model | --rows) shared+=("$1" "$2"); shift 2 ;;
    --no-compile) compile=; shift ;;
    *) torch+=("$1"); shift ;;
  esac
done
[ -x "$bench" ] || { echo "$bench is not there: build with -DKSWEEP_BENCH=ON -DKSWEEP_CUDA=ON" >&2; exit 2; }
scratch=''
sampler=''
# shellcheck disable=SC2317 # the trap calls it
leave() {
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
  [ -z "$scratch" ] || rm -rf "$scratch"
}
trap leave EXIT
if [ -z "$logs" ]; then
  scratch=$(mktemp -d)
  logs=$scratch
fi
mkdir -p "$logs"

# The clocks and the power as they are, twice a second; nothing is set.
nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,nounits -lms 500 \
  >"$logs/clocks.csv" 2>&1 &
sampler=$!

status=0
begin=$SECONDS
"$bench" "$folder" "${shared[@]}" | tee "$logs/before.txt" || status=1
"${PYTHON:-python3}" -u bench/unet_torch.py "${shared[@]}" $compile "${torch[@]}" 2>"$logs/torch.err" |
  tee "$logs/torch.txt" || { status=1; tail -n 20 "$logs/torch.err" >&2; }
"$bench" "$folder" "${shared[@]}" | tee "$logs/after.txt" || status=1
{
  echo
  gpu=$(nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader | head -n 1)
  echo "$(date -u +%Y-%m-%d), $gpu"
  grep -h '^# Python' "$logs/torch.txt" | sed 's/^# //' || true
  echo "ksweep $(git describe --always --dirty 2>/dev/null || echo "of no known commit")," \
    "$((SECONDS - begin)) s in all; median milliseconds a row"
  awk '
    function show(x) { return x ? sprintf("%.3f", x) : "-" }
    function ratio(x, y) { return x && y ? sprintf("%.2f", x / y) : "-" }
    function least(x, y) { return !x || (y && y < x) ? y : x }
    NF == 8 && $1 !~ /^#/ {
      key = $2 " " $3 " " $4
      if (!(key in seen)) { seen[key] = 1; order[++keys] = key }
      ms[FILENAME ~ /after.txt$/ ? "again" : $1, key] = $5
    }
    END {
      form = "%-5s %-5s %4s %9s %9s %9s %9s %9s %9s %11s %14s\n"
      printf form, "model", "type", "rows", "ksweep", "again", "eager", "+graph", "compile", "+graph",
             "eager/ours", "compiled/ours"
      for (i = 1; i <= keys; i++) {
        k = order[i]; split(k, part, " ")
        ours = ms["ksweep", k]
        compiled = least(ms["compile", k], ms["compile+graph", k])
        printf form, part[1], part[2], part[3], show(ours), show(ms["again", k]), show(ms["eager", k]),
               show(ms["eager+graph", k]), show(ms["compile", k]), show(ms["compile+graph", k]),
               ratio(ms["eager", k], ours), ratio(compiled, ours)
      }
      print "eager/ours: eager without a graph; compiled/ours: the better of its two columns"
    }' "$logs/before.txt" "$logs/torch.txt" "$logs/after.txt"
} | tee "$logs/table.txt"
exit $status
