"""Every script of the chain, one after the other, as a person types them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editor import checkpoints, images

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("bash") is None, reason="the chain is a shell script")
def test_from_a_photograph_to_every_result(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "tests/chain.sh"), str(tmp_path)], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    side = checkpoints.read_metadata()["resolution"]
    assert len(images.list_images(tmp_path / "morph_result/encode1")) == 8
    with Image.open(tmp_path / "save_result/morph.gif") as movie:
        assert movie.n_frames == 14 and movie.size == (side, side)
    assert (tmp_path / "save_result/morph.mp4").stat().st_size > 1000
    pair = "astronaut_01_x_mirrored_01"
    pictures = [f"crossover/{pair}", "crossover/join", f"exchange/arithmetic/{pair}_x_mirrored_01"]
    pictures += [f"exchange/{kind}/{pair}_exchange{i}" for kind in ("latents", "images") for i in (1, 2)]
    for name in pictures:
        shown = np.array(images.open_image(tmp_path / "save_image" / f"{name}.png"))
        assert shown.shape == (side, side, 3) and shown.std() > 10, name
        assert np.load(tmp_path / "save_image" / f"{name}.npy").shape[-1] == 512, name
    assert images.list_images(tmp_path / "save_image/boundary")
