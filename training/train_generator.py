"""Train or fine-tune a StyleGAN generator on a folder, .zip or .tar of images.

    python -m training.train_generator --data my_faces/ --preset few --out runs/mine

How it trains, and what can be switched on: training/trainer.py. After each tick it writes to --out: sheet.png (64 samples, psi 0.7) and
the same as sheets/IMAGES.jpg, so that the training can be flipped through; generator.safetensors / discriminator.safetensors /
encoder.safetensors; with --frechet_every, best.safetensors; a line of log.jsonl (printed, too), and last state.pt: a run that was
stopped (Ctrl-C, SIGTERM: within a step or two) or killed goes on from there when it is started again with the same flags. Then --images,
rates and weights may be others; another --data, --init, --init_d, --init_encoder, --fit_mapping, --hold_out, --batch or --seed is another
run, and wants another --out. Several GPUs: start it by torchrun.
"""

import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from editor import cli
from training.config import add_flags, from_flags
from training.settings import PRESET_HELP, PRESETS, SPREAD, START, Config, NewNetworks

WEIGHT_FILES = Path(__file__).resolve().parent.parent / "weight_files"


# ---------------------------------------------------------------------------------------------------------------------
# Flags


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--data", required=True, help="folder, .zip or .tar of images; the middle square of each is taken")
    p.add_argument("--out", default="runs/generator", help="folder of all that is written (default: %(default)s)")
    p.add_argument("--preset", choices=PRESETS, help="defaults " + "; ".join(
        f"{name}, {PRESET_HELP[name]}: --fit_mapping {SPREAD} " + " ".join(f"--{flag} {value}" for flag, value in values.items())
        for name, values in PRESETS.items()))  # fmt: skip
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
    p.add_argument("--frechet_every", type=cli.number(int, 0), default=0, metavar="TICKS", help="measure the Frechet distance of samples "
                   "to the held-out images (without --hold_out: those trained on) each so many ticks, and keep the "
                   "nearest generator as best.safetensors; 0: never (default: 0)")  # fmt: skip
    p.add_argument("--compile", action="store_true", help="torch.compile the synthesis network and the discriminator (GPU)")
    add_flags(p, NewNetworks)
    p.set_defaults(**{field.name: None for field in dataclasses.fields(NewNetworks)})  # None: not given
    add_flags(p, Config, leave_out=["seed"])
    cli.add_run_flags(p)
    return p


def parse(argv):
    """The flags, where a preset is the default of what is not given."""
    parser = flags()
    args = parser.parse_args(argv)
    if args.preset:
        own = any(getattr(args, name) is not None for name in (*START, *(field.name for field in dataclasses.fields(NewNetworks))))
        start = {} if own else {name: str(WEIGHT_FILES / file) for name, file in START.items()}
        fitted = {"fit_mapping": SPREAD} if start or args.init_encoder else {}
        parser.set_defaults(**PRESETS[args.preset], **start, **fitted)
        args = parser.parse_args(argv)
    return args


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
    if found.freeze_d and not args.init_d:
        raise ValueError("--freeze_d keeps blocks of the discriminator as --init_d brings them: give it, too")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The start


def networks(args):
    """The networks to start with, and what their checkpoints say of themselves.

    Raises:
        ValueError, OSError: a checkpoint that is not what its flag wants; flags that contradict it or each other.
    """
    from editor import checkpoints, classes
    from stylegan_layers import Config as NetworkConfig
    from stylegan_layers import Discriminator, Generator

    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(NewNetworks) if getattr(args, f.name) is not None}
    if args.init_d and not args.init:
        raise ValueError("--init_d is the discriminator of --init: give both, or neither")
    if not args.init:
        new = NewNetworks(**given)
        size = NetworkConfig(new.kind, new.resolution, new.channel_base, new.channel_max, new.mapping_layers)
        return Generator(size), Discriminator(dataclasses.replace(size, channel_base=new.channel_base_d or new.channel_base)), {}
    G = checkpoints.load_generator(args.init)
    classes.refuse(G)
    if G.kind == "stylegan3":
        raise ValueError(f"--init {args.init}: a StyleGAN3; StyleGAN1 and StyleGAN2 are trained here")
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


def start_processes(args, config):
    """(rank, number of processes, device): one, or what torchrun says.

    Raises:
        ValueError: the processes cannot share the batch evenly, or have no device each.
    """
    import torch

    from editor import session

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
    """Try to write to a folder now and not after the first tick.

    Raises:
        OSError: it cannot be written to; names it.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:  # it has a name that nobody knows
        raise OSError(error.errno, error.strerror, str(folder)) from None


@contextmanager
def hold(args, settings):
    """Hold --out, once it is seen that this run may write there; for the process that writes.

    Raises:
        ValueError, OSError: another run holds it, it cannot be written to, or something else would be replaced.
    """
    from editor import files
    from training import outputs, ticks

    out = Path(args.out)
    names = ticks.names(bool(settings.reconstruct), bool(args.frechet_every))
    outputs.check_run(out, names, [args.init, args.init_d, args.init_encoder], args.data)
    ticks.check_log(out / "log.jsonl")
    with files.alone_in(out, "another training is writing there; wait for its end, or choose another --out"):
        require_writable(out)
        yield


def origin(args, settings, G, D, pictures):
    """{flag: a number} of what makes a run the one that it is: what only its beginning reads, and what all of its steps must share.

    A flag that is heeded from the next step on, such as --lr or --augment, is not among them, and --batch is compared by itself.
    """
    from editor import files
    from training import resume

    found = {"--data": resume.pictures_word(pictures), "--init": args.init and G.meta["hash"], "--init_d": args.init_d and D.meta["hash"]}
    found |= {"--init_encoder": args.init_encoder and files.file_hash(args.init_encoder), "--fit_mapping": args.fit_mapping}
    found |= {"--hold_out": args.hold_out, "--seed": settings.seed}
    return {flag: resume.seed(value) for flag, value in found.items()}  # a state holds numbers


def prepare(args, settings, device, rank, ranks):
    """Read the data, make the Trainer, and go on from --out's state if there is one.

    Returns:
        (Trainer, metadata for checkpoints, images uint8 [N, 3, R, R], (indices of those to train on, of those held out), words that say
        what was read)
    """
    import torch

    from editor import checkpoints, session
    from training import data, resume
    from training.trainer import Trainer

    out = Path(args.out)
    given = {"alignment": args.alignment and read_alignment(args.alignment), "source": args.source, "license": args.license}
    torch.manual_seed(settings.seed)
    G, D, meta = networks(args)
    encoder = checkpoints.load_encoder(args.init_encoder, G) if args.init_encoder else None
    _, pictures = data.read(args.data, G.resolution, args.quiet or rank > 0)
    indices, held_out = data.split(len(pictures), args.hold_out)
    words = f"{len(indices)} images of {args.data} ({len(held_out)} held out), {G.resolution}x{G.resolution}; "
    words += f"{sum(p.numel() for p in G.parameters()) / 1e6:.1f} million parameters in the generator, {args.init or 'new'}"
    going_on = (out / "state.pt").is_file()
    if args.fit_mapping and not going_on:
        left = fit_mapping(G.to(device), encoder.to(device), pictures, indices, args.fit_mapping)
        words += f"; mapping network fitted to the encoder's latents, unexplained variance {left:.3f}"
    dtype = session.dtype(args.precision, device)
    session.allow_tf32(session.takes_tf32(args.precision, device))
    trainer = Trainer(G, D, settings, device, dtype, ranks, encoder, trained=bool(args.init), rank=rank)
    if args.compile:
        G.synthesis.compile()
        D.compile()
    trainer.run = origin(args, settings, G, D, pictures)
    if going_on:
        with resume.reading(out / "state.pt"):
            trainer.load_state(resume.load(out / "state.pt", device))
        words += f"; going on from {out / 'state.pt'}, after {trainer.shown} images"
    trainer.begin_together()
    return trainer, meta | {k: v for k, v in given.items() if v}, pictures, (indices, held_out), f"{words}; {device}, {dtype}"


def fit_mapping(G, encoder, pictures, indices, spread):
    """`reconstruct.fit_mapping` on some thousands of the images, as many as half a gigabyte holds."""
    import torch

    from training import reconstruct

    most = min(4000, 2**29 // pictures.shape[1:].numel())
    return reconstruct.fit_mapping(G, encoder, pictures[indices[torch.randperm(len(indices))[:most]]], spread)


# ---------------------------------------------------------------------------------------------------------------------
# The run


def main(argv):
    args = parse(argv)
    settings_of_run = settings(args)
    first = int(os.environ.get("RANK", 0)) == 0
    if first and not args.quiet:
        tick = f"a sheet and a state every {settings_of_run.tick} images of {settings_of_run.images}"
        cli.say(f"training on {args.data} into {args.out}, {tick}")
    rank, ranks, device = start_processes(args, settings_of_run)
    with hold(args, settings_of_run) if rank == 0 else nullcontext():
        train(args, settings_of_run, device, rank, ranks)


def train(args, settings_of_run, device, rank, ranks):
    """All of the run that is left, in one of `ranks` processes."""
    from training import data, ticks

    trainer, meta, pictures, (indices, held_out), words = prepare(args, settings_of_run, device, rank, ranks)
    out, quiet = Path(args.out), args.quiet or rank > 0
    done = trainer.shown >= settings_of_run.images
    if rank == 0:
        ticks.cut_log(out / "log.jsonl", trainer.shown)
    if not quiet:
        cli.say(words)
        if done:
            cli.say(f"nothing to do: {trainer.shown} images were shown already; raise --images")
    judge = None
    if args.frechet_every and rank == 0 and not done:
        judge = ticks.Judge(pictures, held_out if args.hold_out else indices, device)
    source = data.Batches(pictures, indices, settings_of_run.batch, settings_of_run.seed, not args.no_flip, device, rank, ranks)
    Run(trainer, source, out, meta, quiet, judge, args.frechet_every).go()
    if ranks > 1:
        import torch

        torch.distributed.barrier()  # the others wait for what rank 0 writes
        torch.distributed.destroy_process_group()
    if not quiet:
        cli.written(args, *ticks.outputs(trainer, out), out / "sheets")


class Run:
    """The steps of a training, and its ticks. One process alone ends at Ctrl-C or SIGTERM after its step, with its state written.

    Args:
        source: source[i] is the batch of step i.
        judge, frechet_every: a `ticks.Judge`, which is asked each so many ticks.
    """

    def __init__(self, trainer, source, out, meta, quiet=False, judge=None, frechet_every=0):
        self.trainer, self.source, self.out, self.meta, self.quiet = trainer, source, out, meta, quiet
        self.judge, self.frechet_every = judge, frechet_every
        self.began, self.saved, self.ticks = time.time(), trainer.shown, 0

    def go(self):
        """All steps that are left.

        Raises:
            KeyboardInterrupt: stopped; says after how many images, which are saved.
        """
        trainer, total, tick = self.trainer, self.trainer.config.images, self.trainer.config.tick
        first, due = trainer.shown, trainer.shown + tick
        whole = cli.kept_whole if trainer.ranks == 1 else nullcontext  # a process that waits for others must not wait for ever
        try:
            with cli.progress(max(0, total - first), self.quiet or first >= total, "image") as show:
                while trainer.shown < total:
                    with whole():
                        trainer.step(self.source[trainer.step_count])
                    show(min(trainer.shown, total) - first)
                    if trainer.shown >= due or trainer.shown >= total:
                        with whole():
                            self.report()
                        due = trainer.shown + tick
        except KeyboardInterrupt as error:
            raise type(error)(self.stopped()) from None

    def report(self, judged=True):
        """Write what a tick leaves behind, and say how it stands; warn of losses that were not finite."""
        from training import ticks

        trainer, every = self.trainer, self.frechet_every
        self.ticks += 1
        judge = self.judge if every and judged and self.ticks % every == 0 else None
        line = ticks.report(trainer, self.out, self.meta, time.time() - self.began, judge)
        self.began, self.saved = time.time(), trainer.shown
        wrong = [name for name, value in line.items() if value is None]
        if wrong:
            cli.warn(f"not finite in some step of the last tick: {', '.join(wrong)}")
        if not self.quiet:
            from tqdm import tqdm

            tqdm.write(json.dumps(line), file=sys.stdout)
            sys.stdout.flush()

    def stopped(self):
        """Save what was trained since the last tick; words on what to do."""
        trainer = self.trainer
        if trainer.ranks == 1 and trainer.shown > self.saved:
            with cli.kept_whole():
                self.report(judged=False)
        again = f"the same command goes on from {self.out / 'state.pt'}" if self.saved else "nothing was trained yet"
        return f"after {trainer.shown} images, of which {self.saved} are saved; {again}"


if __name__ == "__main__":
    cli.run(main)
