#!/usr/bin/env bash
# Remake all that is bundled: generator -> attribute network -> encoder -> boundaries -> measures -> README pictures.
# Usage: BIN=.venv/bin DATA=faces.zip LABELS=labels.csv [IMAGES=200000] training/bundled.sh
# Each stage keeps its state in runs/ and goes on where it was stopped; a stage that is done is quick or skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${BIN:-.venv/bin}/python"
export OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=500000000
source='trained by training/train_generator.py on FairFace (Karkkainen & Joo, WACV 2021), aligned crops 128x128'
license='CC BY 4.0 (trained on FairFace, Karkkainen & Joo, WACV 2021, CC BY 4.0)'
files=weight_files

# What is bundled now is kept, since it is replaced below and a run goes on only with the networks that it began with.
start=runs/bundled_start
[ -d $start ] || { mkdir -p runs/bundled_start.part
    cp $files/faces128.safetensors $files/faces128_discriminator.safetensors $files/encoder.safetensors runs/bundled_start.part/
    mv runs/bundled_start.part $start; }

# The generator: on from that pair; for a start from nothing leave --init and --init_d out (a GPU's 25 minutes are enough).
"$python" -m training.train_generator --data "$DATA" --hold_out --init $start/faces128.safetensors \
    --init_d $start/faces128_discriminator.safetensors --init_encoder $start/encoder.safetensors --out runs/bundled \
    --heads 0.15 --heads_lr 0.0003 --ramp 1000 --reconstruct 8 --critic 0.1 --gamma 0.2 --lr 0.002 --batch 16 \
    --ema 10000 --fall 0.4 --images "${IMAGES:-200000}" \
    --alignment '{"scale": 0.68, "em_scale": 0.45}' --source "$source" --license "$license"
cp runs/bundled/generator.safetensors $files/faces128.safetensors
cp runs/bundled/discriminator.safetensors $files/faces128_discriminator.safetensors
"$python" -m training.make_features --faces "$DATA" --out $files/features.safetensors
"$python" -m training.train_attributes --data "$DATA" --labels "$LABELS" --out $files/attributes.safetensors
"$python" -m training.train_encoder --data "$DATA" --init runs/bundled/encoder.safetensors --state runs/bundled/encoder.pt \
    --out $files/encoder.safetensors
"$python" -m training.make_boundaries
"$python" -m training.measure --data "$DATA" --inversion 100 --starts "w mean" "w+ mean" "w+ encoder" --out $files/measures.json
"$python" -m docs.demo --docs docs
