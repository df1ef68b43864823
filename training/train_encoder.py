"""Train an encoder: pictures -> W+ latents of one generator, the learned start of `encode_image.py --init encoder`.

    python -m training.train_encoder --data faces.zip --generator weight_files/faces128.safetensors --out weight_files/encoder.safetensors

First on the generator's own samples, whose latents are known (style-mixed, so that layers differ); then also by
reconstruction: mean squared error and perceptual distance of the rendering, on samples and on real images. A stopped
run goes on from --state. One JSON line every 100 steps; PSNR of held-out images at the end.
"""

import json
import time
from pathlib import Path

import torch

from editor import checkpoints, cli, files, images
from training import data, reconstruct
from training.train_generator import sample_ws

KNOWN_SHARE = 0.2  # of the steps: samples only, loss in w


def psnr(images, targets):
    """[N] in dB, of images in [-1, 1]."""
    return 10 * torch.log10(4 / (images.clamp(-1, 1) - targets).square().flatten(1).mean(1))


def known_batch(G, count):
    """Samples of the generator at a random psi (0.5 to 1) and their ws."""
    with torch.no_grad():
        ws, _ = sample_ws(G, count, 0.9, "cpu")
        ws = G.w_avg + (0.5 + 0.5 * torch.rand(count, 1, 1)) * (ws - G.w_avg)
        return G.synthesis(ws).clamp(-1, 1), ws


def reconstruction_loss(G, encoder, distance, images):
    """Image2StyleGAN's loss of the encoder's guess, and a little pull towards the mean latent."""
    ws = encoder(images)
    made = G.synthesis(ws)
    loss = (made - images).square().flatten(1).mean(1) + distance(made, images)
    return loss.mean() + 0.002 * (ws - G.w_avg).square().mean()


def train(G, encoder, real, args, state_path):
    """`args.steps` steps of Adam; writes the state every 100."""
    distance = encoder.features
    weights = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=args.lr)
    first, sums, began = 0, {}, time.time()
    if Path(state_path).is_file():
        state = torch.load(state_path, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    spread = torch.stack([G.mapping(torch.randn(64, G.config.z_dim)).std(0) for _ in range(8)]).mean().detach()
    torch.manual_seed(args.seed + first)
    for step in range(first, args.steps):
        t = step / args.steps
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 100) * (1 - t) ** 0.5
        if (t < KNOWN_SHARE and not args.init) or step % 4 == 0:
            images, ws = known_batch(G, args.batch)
            loss = 0.1 * ((encoder(images) - ws) / spread).square().mean()
            name = "known"
        else:
            images = next(real)
            loss, name = reconstruction_loss(G, encoder, distance, images), "real"
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for p, g in zip(weights, gradients, strict=True):
            p.grad = g * min(1.0, 1.0 / float(norm))
        optimiser.step()
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + loss.item(), count + 1)
        if (step + 1) % 100 == 0:
            print(
                json.dumps({"step": step + 1, "seconds": round(time.time() - began)} | {k: round(a / n, 4) for k, (a, n) in sums.items()}),
                flush=True,
            )
            sums = {}
            with files.atomic(state_path) as temporary:
                torch.save({"encoder": encoder.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, temporary)


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", required=True, help="folder, .zip or .tar of pictures, aligned as the generator's")
    parser.add_argument("--generator", metavar="FILE", help="(default: the bundled one)")
    parser.add_argument(
        "--init", metavar="FILE", help="an encoder of the generator to go on from, such as train_generator's (default: a new one)"
    )
    parser.add_argument("--out", default="weight_files/encoder.safetensors")
    parser.add_argument("--state", default="runs/encoder.pt")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    G = checkpoints.load_generator(args.generator)
    _, pictures = data.load(args.data, G.resolution)
    train_on, held = data.split(len(pictures))
    encoder = checkpoints.load_encoder(args.init, G) if args.init else reconstruct.new_encoder(G, checkpoints.BUNDLED["features"])
    encoder.requires_grad_(True).features.requires_grad_(False)
    real = data.batches(pictures, train_on, args.batch, torch.Generator().manual_seed(args.seed))
    train(G, encoder, real, args, args.state)
    targets = pictures[held[:64]].float() / 127.5 - 1
    with torch.no_grad():
        made = torch.cat([G.synthesis(encoder(x)) for x in targets.split(16)])
    mean = G.synthesis(G.w_avg.expand(1, G.num_ws, -1))
    print(json.dumps({"held-out PSNR": psnr(made, targets).median().item(), "of the mean latent": psnr(mean, targets).median().item()}))
    rows = [
        [p for pair in zip(*(images.to_uint8(x[i : i + 4]) for x in (targets, made)), strict=True) for p in pair] for i in range(0, 32, 4)
    ]
    images.save(Path(args.state).with_suffix(".png"), images.sheet(rows, gap=0))
    license = G.meta["license"] or ""
    source = f"trained by training/train_encoder.py for {Path(G.meta['path']).name}"
    print(checkpoints.save(args.out, encoder, half=True, generator_hash=G.meta["hash"], source=source, license=license))


if __name__ == "__main__":
    cli.run(main)
