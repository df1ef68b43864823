"""Train an encoder: pictures -> W+ latents of one generator, the learned start of `encode_image.py --init encoder`.

    python -m training.train_encoder --data faces.zip --generator weight_files/faces128.safetensors --out weight_files/encoder.safetensors

First on the generator's own samples, whose latents are known (style-mixed, so that layers differ); then also by
reconstruction: mean squared error and perceptual distance of the rendering, on samples and on real images. A stopped
run goes on from --state. One JSON line every 100 steps; PSNR of held-out images at the end.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from editor import checkpoints, classes, cli, files, images, render, session
from training import data, outputs, reconstruct, resume
from training.config import add_device_flag, add_flags, check, from_flags, setting
from training.trainer import sample_ws

KNOWN_SHARE = 0.2  # of the steps: samples only, loss in w
EVERY = 100  # steps from one saved state and line to the next; the last step's state is saved, too
PULL = 0.0002  # towards the mean latent; for a square of one standard deviation


@dataclasses.dataclass
class Config:
    """Settings of a run."""

    steps: int = setting(2500, "steps of the optimiser, all runs together", least=1)
    batch: int = setting(8, "images a step", least=1)
    lr: float = setting(0.01, "highest learning rate (Adam), as a share of each weight's size", above=0)
    seed: int = setting(0, "of everything drawn at random", least=0, most=10**12)

    __post_init__ = check


def known_batch(G, count):
    """Samples of the generator at a random psi (0.5 to 1) and their ws."""
    with torch.no_grad():
        ws, _ = sample_ws(G, count, 0.9, G.w_avg.device)
        ws = G.w_avg + (0.5 + 0.5 * torch.rand(count, 1, 1, device=ws.device)) * (ws - G.w_avg)
        return G.synthesis(ws).clamp(-1, 1), ws


def reconstruction_loss(G, encoder, distance, images, spread):
    """Image2StyleGAN's loss of the encoder's guess, and a little pull towards the mean latent.

    Args:
        spread: standard deviation of the generator's own w, so that a W of another scale is pulled alike.
    """
    ws = encoder(images)
    made = G.synthesis(ws)
    loss = (made - images).square().flatten(1).mean(1) + distance(made, images)
    return loss.mean() + PULL * ((ws - G.w_avg) / spread).square().mean()


def train(G, encoder, real, config, state_path, new=True, report=None, run=None):
    """`config.steps` steps of Adam; the state goes to `state_path` every EVERY steps and at the end.

    A run goes on from the one that is there.

    Args:
        G, encoder: on one device.
        real: real[step] is a batch of images [batch, 3, R, R] in [-1, 1] on that device, as data.Batches gives it.
        new: the encoder knows nothing yet: the first fifth of the steps shows it samples only.
        report: called after each step with (its number from 1 on, {name: mean loss since the last report} or None).
        run: what `resume.require_same` compares.

    Returns:
        The number of steps that the state had done.

    Raises:
        ValueError: the state is another run's, or none.
    """
    distance = encoder.features
    weights = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(reconstruct.weight_groups(encoder, config.lr))
    first, sums = 0, {}
    if Path(state_path).is_file():
        with resume.reading(state_path):
            state = resume.load(state_path, G.w_avg.device)
            if state.get("generator_hash", G.meta["hash"]) != G.meta["hash"]:  # states of older versions do not say it
                raise ValueError("it is of an encoder of another generator")
            resume.require_same(state, run or {})
            encoder.load_state_dict(state["encoder"])
            optimiser.load_state_dict(state["optimiser"])
            first = state["step"]
    torch.manual_seed(resume.seed(config.seed, "spread"))
    z = torch.randn(8, 64, G.config.z_dim, device=G.w_avg.device)
    spread = torch.stack([G.mapping(part).std(0) for part in z]).mean().detach()
    for step in range(first, config.steps):
        torch.manual_seed(resume.seed(config.seed, step))
        t = step / config.steps
        for group in optimiser.param_groups:
            group["lr"] = config.lr * group["scale"] * min(1.0, (step + 1) / 100) * (1 - t) ** 0.5
        if (t < KNOWN_SHARE and new) or step % 4 == 0:
            made, ws = known_batch(G, config.batch)
            name, loss = "known", 0.1 * ((encoder(made) - ws) / spread).square().mean()
        else:
            name, loss = "real", reconstruction_loss(G, encoder, distance, real[step], spread)
        _step(optimiser, loss, weights)
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + loss.item(), count + 1)
        means = None
        if (step + 1) % EVERY == 0:
            means, sums = {k: round(a / n, 4) for k, (a, n) in sums.items()}, {}
        if (step + 1) % EVERY == 0 or step + 1 == config.steps:
            state = {"encoder": encoder.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            resume.save(state_path, state | {"generator_hash": G.meta["hash"], "run": run or {}})
        if report:
            report(step + 1, means)
    return first


def _step(optimiser, loss, weights):
    """One step with gradients of a length of at most 1."""
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for p, g in zip(weights, gradients, strict=True):
        p.grad = g * min(1.0, 1.0 / float(norm))
    optimiser.step()


def flags():
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--data", required=True, help="folder, .zip or .tar of pictures, aligned as the generator's; every tenth is held out"
    )
    parser.add_argument("--generator", metavar="FILE", help="whose latents it shall guess (default: the bundled one)")
    parser.add_argument(
        "--init", metavar="FILE", help="an encoder of the generator to go on from, such as train_generator's (default: a new one)"
    )
    parser.add_argument("--out", default="runs/encoder.safetensors", help="where the encoder goes (default: %(default)s)")
    parser.add_argument("--state", default="runs/encoder.pt", help="what a stopped run goes on from; NAME.png beside it shows held-out "
                        "images and their reconstructions (default: %(default)s)")  # fmt: skip
    add_flags(parser, Config)
    add_device_flag(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar, errors only")
    return parser


def check_outputs(args, G):
    """See that --out and --state may and can be written, before the work.

    Raises:
        ValueError, OSError: they are read by this run, are one file, are something else, or cannot be written.
    """
    outputs.check_checkpoint(args.out, "encoder", [G.meta["path"], args.init])
    own = checkpoints.same_file(G.meta["path"], checkpoints.BUNDLED["generator"])
    if not own and checkpoints.same_file(args.out, checkpoints.BUNDLED["encoder"]):
        raise ValueError(f"{args.out}: comes with the project, for its own generator; choose another --out")
    outputs.check_state(args.state)
    outputs.check_sheet(args.state, "--state")


def main(argv):
    args = flags().parse_args(argv)
    settings, device, began = from_flags(Config, args), session.device(args.device), time.time()
    torch.manual_seed(settings.seed)
    G = checkpoints.load_generator(args.generator, device)
    classes.refuse(G)
    check_outputs(args, G)
    _, pictures = data.read(args.data, G.resolution, args.quiet)
    train_on, held = data.parts(args.data, pictures)
    encoder = checkpoints.load_encoder(args.init, G) if args.init else reconstruct.new_encoder(G, checkpoints.BUNDLED["features"])
    encoder.to(device).requires_grad_(True).features.requires_grad_(False)
    real = data.Batches(pictures, train_on, settings.batch, settings.seed, device=device)
    with tqdm(total=settings.steps, disable=args.quiet, unit="step", file=sys.stderr, mininterval=1) as bar:

        def report(step, means):
            bar.update(step - bar.n)
            if means and not args.quiet:
                bar.write(json.dumps({"step": step, "seconds": round(time.time() - began)} | means), file=sys.stdout)
                sys.stdout.flush()

        run = {"--data": resume.pictures_word(pictures), "--init": args.init and files.file_hash(args.init)}
        run |= {"--batch": settings.batch, "--seed": settings.seed}
        first = train(G, encoder, real, settings, args.state, not args.init, report, run)
    if first and not args.quiet:
        done = "; nothing was left to do: raise --steps, or give another --state" if first >= settings.steps else ""
        cli.say(f"went on from {args.state}, after {first} steps{done}")
    source = f"trained by training/train_encoder.py for {Path(G.meta['path']).name}"
    outputs.require_finite(args.out, encoder)
    checkpoints.save(args.out, encoder, half=True, generator_hash=G.meta["hash"], source=source, license=G.meta["license"] or "")
    measured, sheet = measure(G, encoder, pictures[held[:64]].to(device).float() / 127.5 - 1)
    images.save(Path(args.state).with_suffix(".png"), sheet)
    if not args.quiet:
        print(json.dumps(measured), args.out, Path(args.state).with_suffix(".png"), sep="\n")


@torch.no_grad()
def measure(G, encoder, targets):
    """PSNR of images [N, 3, R, R] encoded and rendered, beside that of the mean latent's rendering; and a sheet of 32 of them."""
    made = torch.cat([G.synthesis(encoder(x)) for x in targets.split(16)]).clamp(-1, 1)
    mean = G.synthesis(G.w_avg.expand(1, G.num_ws, -1)).clamp(-1, 1)
    pairs = list(zip(images.to_uint8(targets[:32]), images.to_uint8(made[:32]), strict=True))
    rows = [[picture for pair in pairs[i : i + 4] for picture in pair] for i in range(0, len(pairs), 4)]
    figures = {"held-out PSNR": render.psnr(made, targets), "of the mean latent": render.psnr(mean, targets)}
    return {name: values.median().item() for name, values in figures.items()}, images.sheet(rows, gap=0)


if __name__ == "__main__":
    cli.run(main)
