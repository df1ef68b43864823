#!/usr/bin/env bash
# The whole chain on the bundled generator: align -> encode -> morph -> gif -> crossover -> exchange -> edit.
# Usage: PYTHON=.venv/bin/python tests/chain.sh FOLDER    (everything is written into FOLDER)
set -euo pipefail
tools=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$1"
cd "$1"

step() {
    local script=$1
    shift
    echo "== $script"
    "$python" "$tools/$script" "$@"
}

# one photograph that comes with scikit-image, and its mirror image for a second face
mkdir -p raw_images
"$python" -c "
import skimage.data
from PIL import Image, ImageOps
face = Image.fromarray(skimage.data.astronaut())
face.save('raw_images/astronaut.png')
ImageOps.mirror(face).save('raw_images/mirrored.png')"

step align_images.py raw_images aligned_images --face largest --quiet
step encode_image.py --w_iteration 60 --tune 10 --batch_size 2 --quiet
a=latent_W/astronaut_01.npy b=latent_W/mirrored_01.npy
step image_morphing.py --latent_file1 $a --latent_file2 $b --frames 8 --animation save_result/morph.mp4 --quiet
step make_morphinggif.py --pingpong --quiet
step image_crossover.py --latent_file1 $a --latent_file2 $b --quiet
"$python" -c "
from PIL import Image
mask = Image.new('L', (64, 64), 0)
mask.paste(255, (0, 0, 32, 64))
mask.save('mask.png')"
step image_crossover.py --src_im1 astronaut_01.png --src_im2 mirrored_01.png --mask mask.png --iteration 20 --out save_image/crossover/join --quiet
step facial_exchange.py --latent_file1 $a --latent_file2 $b --out_dir save_image/exchange/latents --quiet
step facial_exchange.py --src_im1 astronaut_01.png --src_im2 mirrored_01.png --iteration 20 --out_dir save_image/exchange/images --quiet
step facial_exchange.py --target save_image/crossover/astronaut_01_x_mirrored_01.npy --neutral $a --expression $b --out_dir save_image/exchange/arithmetic --quiet
step semantic_edit.py --latent_file $a --steps 4 --quiet
