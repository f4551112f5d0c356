#!/usr/bin/env bash
# Whole runs of SDXL at 1024 x 1024 on this machine's GPU: 64 pictures, 20 steps, cfg 7, latents only, random weights.
#
#   bench/run_gpu.sh KSWEEP MODEL [SAMPLER...]
#
# KSWEEP: the program. MODEL: random-sdxl.safetensors as bench_unet_gpu leaves it in its folder. SAMPLER: euler by default.
# For each sampler: the run's own summary, and the seconds from start to end.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '4s/^# */usage: /p' "$0" >&2; exit 2; }
ksweep=$1 model=$(realpath "$2")
shift 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Two conditionings of 77 tokens: random numbers of unit spread.
"${PYTHON:-python3}" - "$folder/cond.safetensors" <<'END'
import json, random, struct, sys
random.seed(1)
shapes = {"positive": (1, 77, 2048), "negative": (1, 77, 2048), "pooled": (1, 1280)}
header, data = {}, b""
for name, shape in shapes.items():
    count = 1
    for size in shape:
        count *= size
    values = struct.pack(f"<{count}f", *(random.gauss(0, 1) for _ in range(count)))
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
    data += values
text = json.dumps(header).encode()
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data)
END
cat >"$folder/job.json" <<END
{
  "ksweep": 1, "model": "$model",
  "positive": {"file": "cond.safetensors", "cond": "positive", "pooled": "pooled"},
  "negative": {"file": "cond.safetensors", "cond": "negative", "pooled": "pooled"},
  "latent_image": {"width": 1024, "height": 1024},
  "seed": {"start": 1, "count": 64}, "control_after_generate": "increment",
  "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "device": "cuda",
  "parallel": {"batch_rows": 16}, "output": {"file": "out.h5"}
}
END
for sampler in "${@:-euler}"; do
  begin=$(date +%s.%N)
  "$ksweep" run "$folder/job.json" -o "$folder/$sampler.h5" --set "sampler_name=$sampler" 2>&1 | sed "s/^/$sampler: /"
  awk -v begin="$begin" -v end="$(date +%s.%N)" -v name="$sampler" 'BEGIN { printf "%s: %.1f s from start to end\n", name, end - begin }'
done
