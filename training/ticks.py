"""What a training leaves behind at each tick: samples, checkpoints, a line of the log, the best generator so far, and the state."""

import json
import math
import time

import torch

from editor import checkpoints, files, images
from training import measure, resume
from training.outputs import not_finite

MOST_COMPARED = 1000  # images, and samples, of a Frechet distance
BEGINNING = '{"images":'  # of a line of the log


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


def names(encoder, best):
    """Of the files in --out that ticks write beside sheets/, with an encoder and with the best so far; the state comes last.

    Killed on the way, a tick is made again.
    """
    trained = ["generator", *(["encoder"] if encoder else []), "discriminator"]
    nearest = ["best", *(["best_encoder"] if encoder else [])] if best else []
    return ["sheet.png", *(f"{name}.safetensors" for name in [*trained, *nearest]), "log.jsonl", "state.pt"]


def outputs(trainer, out):
    """The files that ticks wrote."""
    every = names(bool(trainer.encoder), best=True)
    return [out / name for name in every if not name.startswith("best") or (out / name).is_file()]


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
    """The files of a tick. The first is one in sheets/, by which `outputs.check_run` knows the others for a training's."""
    write_sheet(trainer.ema, out / "sheets" / f"{trainer.shown:09}.jpg", out / "sheet.png")  # the former by name: the training as a film
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
    return [line for line in map(_tick, _lines(path)) if line]


def _lines(path):
    """The lines of a log, but empty ones; none where it is not."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [line for line in text.splitlines() if line.strip()]


def _tick(line):
    """A line of a log -> dict; None: it is half a line, or something else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and type(value.get("images")) is int else None


def check_log(path):
    """See that a file of the log's name is a log, or none: `cut_log` leaves out all that is not.

    Raises:
        ValueError: a line is no tick's; but the last one may be half of one.
    """
    *most, last = _lines(path) or ["{"]
    half = last[: len(BEGINNING)] == BEGINNING[: len(last)]
    if not all(map(_tick, most)) or not (half or _tick(last)):
        raise ValueError(f"{path}: not the log of a training, and would be replaced; move it away, or choose another --out")


def cut_log(path, shown):
    """Leave out the log's lines after `shown` images: their ticks were written, but not their state, and are made again."""
    if path.is_file():
        kept = "".join(json.dumps(line) + "\n" for line in read_log(path) if line["images"] <= shown)
        if kept != path.read_text(encoding="utf-8", errors="replace"):
            with files.atomic(path) as temporary:
                temporary.write_text(kept, encoding="utf-8")
