#!/bin/sh
# What to measure first when a CUDA card is at hand: benchmarks/gpu.sh [DEVICE] [OUT], from anywhere, about a quarter of an hour on an H100.
#
# Nobody has run this on a card. The figures in the comments are expected, for an H100 (3.35 TB/s, bfloat16): StyleGAN1 at 1024, one
# image. The floor of a step is 1.5 to 2 ms, by memory traffic alone (5 to 6.7 GB at that rate). What is far above its
# figure is the first thing to look into. Ratios count: take plain and ours in one run, and name the card.
set -eu
cd "$(dirname "$0")/.."
DEVICE=${1:-cuda}
OUT=${2:-benchmarks/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"

# 1. The card, and whether it multiplies bfloat16 itself (T4, V100: no) and TF32 is off where float32 is promised: False False.
$PYTHON - "$DEVICE" <<'PY' | tee "$OUT/card.txt"
import sys
import torch
from editor import session
card = session.device(sys.argv[1])
session.allow_tf32(False)
print(torch.cuda.get_device_name(card), torch.__version__, "bfloat16 is its own:", session.native_bfloat16(card))
print("TF32:", torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
PY

# 2. The tests of the step and of the devices' rules; all must pass on this machine, too.
$PYTHON -m pytest -q tests/test_devices.py tests/test_graphs.py tests/test_fast.py tests/test_layers.py tests/test_projection.py

# 3. Seconds of a step, plain and ours. Expected at 1024, batch 1: eager bfloat16 10 to 20 ms, for it is bound by a thousand launches of about
#    10 microseconds; recorded (a CUDA graph by hand, what --compile auto takes) 3 to 6 ms; compiled 2 to 4 ms. Of the recorded row "first" must
#    be below a second or two, of the compiled one it is the minute of compiling: where it wins that back soon, `auto` should take it (editor/session.py,
#    `captures` and `compiles`). If recorded and eager are alike, the recording failed: encode_image.py warns with the reason.
$PYTHON -m benchmarks.bench_step --device "$DEVICE" --kinds stylegan1 stylegan2 --resolutions 128 1024 --batches 1 8 --steps 30 \
    --variants plain "ours, float32 eager" "ours, bfloat16" "ours, bfloat16 recorded" "ours, bfloat16 compiled" --out "$OUT/step.json"

# 4. Waits: a step must not wait for the card between looks at the losses. Expected: cudaMemcpy and cudaStreamSynchronize a few in all, not in
#    proportion to the steps; from the CPU to the card nothing that is there already.
$PYTHON - "$DEVICE" <<'PY' | tee "$OUT/waits.txt"
import sys
import torch
from benchmarks.bench_step import networks
from editor import projection, session, settings
card = session.device(sys.argv[1])
G, distance = networks("stylegan1", 1024, card)
G, target = G.freeze(), torch.zeros(1, 3, 1024, 1024, device=card)
def run(steps):
    projection.project(G, distance, target, settings.Config(iteration=steps, check_every=1000, dtype=session.dtype("auto", card, 1024)))
run(3)
for steps in (10, 50):
    with torch.profiler.profile() as seen:
        run(steps)
    rows = {row.key: row.count for row in seen.key_averages() if "Memcpy" in row.key or "Synchronize" in row.key}
    print(steps, "steps:", rows)
PY

# 5. Number formats on one photograph: loss and PSNR after 200 steps must agree within 0.2 dB, fp32 being the slowest; each run's first
#    line says what was chosen. Pictures are float32 but for bf16. Expected at 128: fp32 and tf32 alike in time, bound by launches.
$PYTHON generate.py --seeds 7 --out_dir "$OUT/photo" --quiet --device cpu
for precision in fp32 tf32 auto bf16; do
    $PYTHON encode_image.py --src_dir "$OUT/photo" --preset exact --iteration 200 --device "$DEVICE" --precision $precision --compile off --redo \
        --latent_dir "$OUT/w_$precision" --save_dir "$OUT/s_$precision" 2>&1 | tee "$OUT/encode_$precision.txt"
done
#    Recorded steps must find the same within rounding: losses and PSNR as with --compile off, to the third digit.
$PYTHON encode_image.py --src_dir "$OUT/photo" --preset exact --iteration 200 --device "$DEVICE" --precision fp32 --compile auto --redo \
    --latent_dir "$OUT/w_recorded" --save_dir "$OUT/s_recorded" 2>&1 | tee "$OUT/encode_recorded.txt"

# 6. The default, start to files, against the same on the CPU. Expected: seconds of opening the card, then three times faster and more.
time $PYTHON encode_image.py --src_dir "$OUT/photo" --device "$DEVICE" --redo --latent_dir "$OUT/w" --save_dir "$OUT/s"
time $PYTHON encode_image.py --src_dir "$OUT/photo" --device cpu --redo --latent_dir "$OUT/wc" --save_dir "$OUT/sc"
