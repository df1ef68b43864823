"""What a training leaves behind at each tick: samples, checkpoints, a line of the log, the best generator so far, and the state."""

import json
import math
import time

import torch

from editor import checkpoints, files, images
from training import measure, resume
from training.outputs import not_finite

MOST_COMPARED = 1000  # images, and samples, of a Frechet distance


@torch.no_grad()
def write_sheet(G, *paths, seed=0, count=64, psi=0.7):
    """64 samples of the generator, 8 a row; the same latents each time."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(next(G.parameters()).device)
    samples = [x for chunk in z.split(16) for x in images.to_uint8(G(chunk, psi))]
    sheet = images.sheet([samples[i : i + 8] for i in range(0, count, 8)], gap=0)
    for path in paths:
        images.save(path, sheet)


class Judge:
    """The Frechet distance of samples (psi 1) to real images, in the bundled attribute network's features, at 64x64.

    Args:
        pictures: uint8 [N, 3, R, R], as `data.load` gives them; at most MOST_COMPARED of them are looked at.
        indices: of those to compare with.

    Raises:
        ValueError: fewer than two.
    """

    def __init__(self, pictures, indices, device="cpu"):
        if len(indices) < 2:
            raise ValueError(f"a Frechet distance needs two images or more to compare with; there are {len(indices)}")
        self.network = checkpoints.load_attributes().to(device)
        some = indices[torch.linspace(0, len(indices) - 1, min(MOST_COMPARED, len(indices))).long()]
        self.real = measure.embed(self.network, measure.at_64(pictures, some))  # [N, D]

    @torch.no_grad()
    def __call__(self, G):
        return measure.frechet(self.real, measure.embed(self.network, measure.samples(G, max(100, len(self.real)))))


def outputs(trainer, out):
    """The files that a tick writes, the state last: killed on the way, the tick is made again."""
    names = ["sheet.png", "generator.safetensors", *(["encoder.safetensors"] if trainer.encoder else []), "discriminator.safetensors"]
    best = [name for name in ("best.safetensors", "best_encoder.safetensors") if (out / name).is_file()]
    return [out / name for name in [*names, *best, "log.jsonl", "state.pt"]]


def report(trainer, out, meta, seconds, judge=None):
    """Write what a tick leaves behind. All processes call it; the first one writes.

    Args:
        judge: a Judge; the generator nearest to its images so far is kept as best.safetensors.

    Returns:
        The log's line, a dict.

    Raises:
        ValueError: weights are no longer finite as float16; nothing was written.
    """
    if any(not_finite(network) for network in (trainer.ema, trainer.D, trainer.encoder_ema) if network):
        kept = "the files of the tick before are kept" if (out / "state.pt").is_file() else "nothing was written"
        raise ValueError(f"the training diverged: after {trainer.shown} images weights are not finite; {kept}; try a lower --lr")
    line = {"images": trainer.shown, "seconds": round(seconds, 1), **trainer.tick(), "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    if trainer.rank == 0:
        if judge:
            line["frechet"] = round(judge(trainer.ema), 3)
        write(trainer, out, meta, line)
    return line


def write(trainer, out, meta, line):
    """The files of a tick."""
    write_sheet(trainer.ema, out / "sheet.png", out / "sheets" / f"{trainer.shown:09}.jpg")  # the latter by name: the training as a film
    best = line.get("frechet", math.inf) < min((v["frechet"] for v in read_log(out / "log.jsonl") if "frechet" in v), default=math.inf)
    for name in ("generator", *(["best"] if best else [])):
        generator_hash = checkpoints.save(out / f"{name}.safetensors", trainer.ema, half=True, **meta)
    if trainer.encoder:
        for name in ("encoder", *(["best_encoder"] if best else [])):
            checkpoints.save(out / f"{name}.safetensors", trainer.encoder_ema, half=True, generator_hash=generator_hash, **meta)
    origin = {k: v for k, v in meta.items() if k in ("source", "license")}
    checkpoints.save(out / "discriminator.safetensors", trainer.D, half=True, **origin)
    with open(out / "log.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    resume.save(out / "state.pt", trainer.state())


def read_log(path):
    """The lines of a log that are whole, as dicts."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            value = json.loads(line)
        except ValueError:  # half a line
            continue
        if isinstance(value, dict) and type(value.get("images")) is int:
            found.append(value)
    return found


def cut_log(path, shown):
    """Leave out the log's lines after `shown` images: their ticks were written, but not their state, and are made again."""
    if path.is_file():
        kept = "".join(json.dumps(line) + "\n" for line in read_log(path) if line["images"] <= shown)
        if kept != path.read_text(encoding="utf-8", errors="replace"):
            with files.atomic(path) as temporary:
                temporary.write_text(kept, encoding="utf-8")
