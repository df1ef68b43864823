"""Train or fine-tune a StyleGAN generator on a folder, .zip or .tar of images.

    python -m training.train_generator --data my_faces/ --init faces.safetensors --init_d faces_discriminator.safetensors --out runs/mine

How it trains, and what can be switched on: training/trainer.py. After each tick it writes to --out: sheet.png (64 samples, psi 0.7),
generator.safetensors / discriminator.safetensors / encoder.safetensors, a line of log.jsonl (printed, too), and last state.pt: a
stopped or killed run goes on from there when it is started again with the same flags. Several GPUs: start it by torchrun.
"""

import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from editor import checkpoints, cli, files, images, session
from stylegan_layers import Config as NetworkConfig
from stylegan_layers import Discriminator, Generator
from training import data, reconstruct, resume
from training.config import add_flags, check, from_flags, setting
from training.trainer import Config, Trainer


@dataclasses.dataclass
class NewNetworks:
    """Sizes of networks that start from nothing; --init brings its own."""

    kind: str = setting("stylegan2", "of a new generator: stylegan1 or stylegan2", choices=("stylegan1", "stylegan2"))
    resolution: int = setting(128, "pixels a side, a power of two", least=4, most=1024)
    channel_base: int = setting(2048, "channels of a new generator at a resolution: this divided by the resolution", least=4, most=2**16)
    channel_base_d: int = setting(0, "the same of its discriminator; 0: as the generator's", least=0, most=2**16)
    channel_max: int = setting(256, "and at most so many channels, in both", least=1, most=2048)
    mapping_layers: int = setting(4, "layers of a new mapping network", least=1, most=64)

    __post_init__ = check


# ---------------------------------------------------------------------------------------------------------------------
# What a tick leaves behind


@torch.no_grad()
def write_sheet(G, path, seed=0, count=64, psi=0.7):
    """64 samples of the generator, 8 a row."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(next(G.parameters()).device)
    samples = [x for chunk in z.split(16) for x in images.to_uint8(G(chunk, psi))]
    images.save(path, images.sheet([samples[i : i + 8] for i in range(0, count, 8)], gap=0))


def outputs(trainer, out):
    """The files that a tick writes, the state last: killed on the way, the tick is made again."""
    names = ["sheet.png", "generator.safetensors", *(["encoder.safetensors"] if trainer.encoder else []), "discriminator.safetensors"]
    return [out / name for name in [*names, "log.jsonl", "state.pt"]]


def report(trainer, out, meta, seconds):
    """Write what a tick leaves behind. All processes call it; the first one writes.

    Returns:
        The log's line, a dict.

    Raises:
        ValueError: the generator's weights are no longer finite; nothing was written.
    """
    if not all(v.isfinite().all() for v in trainer.ema.state_dict().values()):
        kept = "the files of the tick before are kept" if (out / "state.pt").is_file() else "nothing was written"
        raise ValueError(f"the training diverged: after {trainer.shown} images weights are not finite; {kept}; try a lower --lr")
    line = {"images": trainer.shown, "seconds": round(seconds, 1), **trainer.tick(), "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    if trainer.rank == 0:
        write(trainer, out, meta, line)
    return line


def write(trainer, out, meta, line):
    """The files of a tick."""
    write_sheet(trainer.ema, out / "sheet.png")
    generator_hash = checkpoints.save(out / "generator.safetensors", trainer.ema, half=True, **meta)
    if trainer.encoder:
        checkpoints.save(out / "encoder.safetensors", trainer.encoder_ema, half=True, generator_hash=generator_hash, **meta)
    origin = {k: v for k, v in meta.items() if k in ("source", "license")}
    checkpoints.save(out / "discriminator.safetensors", trainer.D, half=True, **origin)
    with open(out / "log.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    resume.save(out / "state.pt", trainer.state())


def cut_log(path, shown):
    """Leave out the log's lines after `shown` images: their ticks were written, but not their state, and are made again."""

    def kept(line):
        try:
            return json.loads(line)["images"] <= shown
        except (ValueError, KeyError, TypeError):  # half a line
            return False

    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if not all(map(kept, lines)):
            with files.atomic(path) as temporary:
                temporary.write_text("".join(filter(kept, lines)), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# The start


def networks(args):
    """The networks to start with, and what their checkpoints say of themselves.

    Raises:
        ValueError, OSError: a checkpoint that is not what its flag wants; flags that contradict it or each other.
    """
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(NewNetworks) if getattr(args, f.name) is not None}
    if args.init_d and not args.init:
        raise ValueError("--init_d is the discriminator of --init: give both, or neither")
    if not args.init:
        new = NewNetworks(**given)
        size = NetworkConfig(new.kind, new.resolution, new.channel_base, new.channel_max, new.mapping_layers)
        return Generator(size), Discriminator(dataclasses.replace(size, channel_base=new.channel_base_d or new.channel_base)), {}
    G = checkpoints.load_generator(args.init)
    meta = {k: G.meta[k] for k in ("alignment", "perceptual", "source", "license") if G.meta.get(k)}
    D = checkpoints.load_discriminator(args.init_d) if args.init_d else Discriminator(G.config)
    if D.config.resolution != G.resolution:
        raise ValueError(f"--init_d {args.init_d}: looks at pictures of side {D.config.resolution}; the generator's is {G.resolution}")
    for name, value in given.items():
        own = D.config.channel_base if name == "channel_base_d" else getattr(G.config, name)
        if value != own:
            raise ValueError(f"--{name} {value}: with --init, networks are as they are; there it is {own}")
    return G, D, meta


def read_alignment(text):
    """--alignment -> dict.

    Raises:
        ValueError: it is not what it should be.
    """
    try:
        found = json.loads(text)
        good = set(found) == {"scale", "em_scale"} and all(type(v) in (int, float) and math.isfinite(v) for v in found.values())
    except (ValueError, TypeError, AttributeError, RecursionError):
        good = False
    if not good or found["scale"] <= 0:
        raise ValueError(f'--alignment {text[:80]}: expected JSON such as {{"scale": 1.0, "em_scale": 0.1}}')
    return found


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--data", required=True, help="folder, .zip or .tar of images; the middle square of each is taken")
    p.add_argument("--out", default="runs/generator", help="folder of all that is written (default: %(default)s)")
    p.add_argument("--init", metavar="CHECKPOINT", help="generator to go on from (fine-tuning)")
    p.add_argument("--init_d", metavar="CHECKPOINT", help="its discriminator (default: a new one)")
    p.add_argument("--init_encoder", metavar="CHECKPOINT", help="its encoder, for --reconstruct and --fit_mapping (default: a new one)")
    p.add_argument("--fit_mapping", type=float, metavar="SPREAD", help="first teach the mapping network to draw its latents from where "
                   "--init_encoder puts photographs, SPREAD times as far apart (1.4: good)")  # fmt: skip
    p.add_argument("--hold_out", action="store_true", help="keep every tenth image out, for training/measure.py")
    p.add_argument("--no_flip", action="store_true", help="never mirror an image (default: half of them)")
    p.add_argument("--alignment", help='of the images, as JSON: {"scale": 1.0, "em_scale": 0.1}')
    p.add_argument("--source", help="what the checkpoint says of its training")
    p.add_argument("--license", help="what the checkpoint says of its licence")
    p.add_argument("--compile", action="store_true", help="torch.compile the synthesis network and the discriminator (GPU)")
    add_flags(p, NewNetworks)
    p.set_defaults(**{field.name: None for field in dataclasses.fields(NewNetworks)})  # None: not given
    add_flags(p, Config, leave_out=["seed"])
    cli.add_run_flags(p)
    return p


def settings(args):
    """The Config that the flags give.

    Raises:
        ValueError: senseless values, or flags that nothing would read.
    """
    found = from_flags(Config, args)
    if args.fit_mapping is not None and not 0 < args.fit_mapping < math.inf:
        raise ValueError(f"--fit_mapping {args.fit_mapping}: expected a finite number above 0")
    if args.fit_mapping and not args.init_encoder:
        raise ValueError("--fit_mapping needs --init_encoder, whose latents it is fitted to")
    if args.init_encoder and not (found.reconstruct or args.fit_mapping):
        raise ValueError("--init_encoder is used by --reconstruct and --fit_mapping only; give one of them")
    if args.init_encoder and not args.init:
        raise ValueError("--init_encoder is the encoder of one generator; give it with --init")
    return found


def start_processes(args, config):
    """(rank, number of processes, device): one, or what torchrun says.

    Raises:
        ValueError: the processes cannot share the batch evenly, or have no device each.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = session.device(args.device)
    config.share(ranks)
    if ranks > 1:
        if device.type == "mps":
            raise ValueError(f"--device {args.device}: only one process can train on MPS; use --device cpu, or leave torchrun out")
        if device.type == "cuda":
            device = session.device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, ranks, device


def require_writable(folder):
    """Make the folder, and try to write there now and not after the first tick.

    Raises:
        OSError: it cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def prepare(args, settings, device, rank, ranks):
    """Read the data, make the Trainer, and go on from --out's state if there is one.

    Returns:
        (Trainer, metadata for checkpoints, images uint8 [N, 3, R, R], indices of those to train on, words that say what was read)
    """
    out = Path(args.out)
    given = {"alignment": args.alignment and read_alignment(args.alignment), "source": args.source, "license": args.license}
    require_writable(out)
    torch.manual_seed(settings.seed)
    G, D, meta = networks(args)
    encoder = checkpoints.load_encoder(args.init_encoder, G) if args.init_encoder else None
    _, pictures = data.load(args.data, G.resolution)
    indices, held_out = data.split(len(pictures), args.hold_out)
    words = f"{len(indices)} images of {args.data} ({len(held_out)} held out), {G.resolution}x{G.resolution}; "
    words += f"{sum(p.numel() for p in G.parameters()) / 1e6:.1f} million parameters in the generator, {args.init or 'new'}"
    going_on = (out / "state.pt").is_file()
    if args.fit_mapping and not going_on:
        few = pictures[indices[torch.randperm(len(indices))[:4000]]]
        left = reconstruct.fit_mapping(G.to(device), encoder.to(device), few, args.fit_mapping)
        words += f"; mapping network fitted to the encoder's latents, unexplained variance {left:.3f}"
    dtype = session.dtype(args.precision, device)
    session.allow_tf32(session.takes_tf32(args.precision, device))
    trainer = Trainer(G, D, settings, device, dtype, ranks, encoder, trained=bool(args.init), rank=rank)
    if args.compile:
        G.synthesis.compile()
        D.compile()
    if going_on:
        with resume.reading(out / "state.pt"):
            trainer.load_state(resume.load(out / "state.pt", device))
        words += f"; going on from {out / 'state.pt'}"
    trainer.begin_together()
    return trainer, meta | {k: v for k, v in given.items() if v}, pictures, indices, f"{words}; {device}, {dtype}"


def main(argv):
    args = flags().parse_args(argv)
    settings_of_run = settings(args)
    rank, ranks, device = start_processes(args, settings_of_run)
    trainer, meta, pictures, indices, words = prepare(args, settings_of_run, device, rank, ranks)
    out, quiet, total = Path(args.out), args.quiet or rank > 0, settings_of_run.images
    done = trainer.shown >= total
    if rank == 0:
        cut_log(out / "log.jsonl", trainer.shown)
    if not quiet:
        print(words, file=sys.stderr, flush=True)
        if done:
            print(f"nothing to do: {trainer.shown} images were shown already; raise --images", file=sys.stderr)
    source = data.Batches(pictures, indices, settings_of_run.batch, settings_of_run.seed, not args.no_flip, device, rank, ranks)
    began, next_tick = time.time(), trainer.shown + settings_of_run.tick
    with tqdm(total=total, initial=trainer.shown, unit="image", disable=quiet or done, file=sys.stderr, mininterval=1) as bar:
        while trainer.shown < total:
            trainer.step(source[trainer.step_count])
            bar.update(min(trainer.shown, total) - bar.n)
            if trainer.shown >= next_tick or trainer.shown >= total:
                line = report(trainer, out, meta, time.time() - began)
                if rank == 0:
                    show(line, bar, quiet)
                began, next_tick = time.time(), trainer.shown + settings_of_run.tick
    if ranks > 1:
        torch.distributed.barrier()  # the others wait for what rank 0 writes
        torch.distributed.destroy_process_group()
    if not quiet:
        print(*outputs(trainer, out), sep="\n")


def show(line, bar, quiet):
    """Print a line of the log above the bar, and warn of losses that were not finite."""
    wrong = [name for name, value in line.items() if value is None]
    if wrong:
        cli.warn(f"not finite in some step of the last tick: {', '.join(wrong)}")
    if not quiet:
        bar.write(json.dumps(line), file=sys.stdout)
        sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main)
