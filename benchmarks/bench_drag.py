"""How well and how fast points are dragged, on the bundled generator and on faces of photographs.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_drag truth --count 40
    OMP_NUM_THREADS=1 python -m benchmarks.bench_drag photographs --faces latent_W
    OMP_NUM_THREADS=1 python -m benchmarks.bench_drag speed

truth: a face is turned by the generator itself (boundary pose), a landmark before and after is a handle and its target; the landmark is
found again in the dragged face. photographs: mouth corners, brows, nose and chin of embedded faces, with masks; --sheet shows them.
speed: seconds of a step, which stops at the feature map, and of a whole rendering with its gradient, random weights.
"""

import resource
import time
from pathlib import Path

import numpy as np
import torch

import drag_edit
from editor import checkpoints, cli, dragging, face, images, landmarks, masks, render, settings, tuning
from stylegan_layers import Config, Generator

HANDLES = (30, 33, 48, 54, 8, 57, 51, 27, 39, 42)  # landmarks that a turn moves
DRAGS = {  # what is dragged on photographs, and what may move
    "mouth": (["part:mouth_left>-2,-5", "part:mouth_right>+2,-5"], "ellipse:0.5,0.70,0.36,0.27"),
    "brows": (["part:left_brow>+0,-6", "part:right_brow>+0,-6"], "ellipse:0.5,0.32,0.42,0.25"),
    "nose": (["part:nose>+0,-6"], "ellipse:0.5,0.55,0.3,0.3"),
    "jaw": (["part:chin>+0,-6"], "ellipse:0.5,0.8,0.5,0.4"),
}


def locator(G, person):
    def locate(ws):
        return landmarks.landmarks_of_crop(images.to_pil(render.one(G, face.Face(ws, person.noise, person.tuned))))

    return locate


def turned(G, count):
    """Faces with a landmark's place before and after a turn that moves it by 8 to 15 pixels: (face, landmark, marks, target)."""
    pose = torch.from_numpy(face.read_array(checkpoints.HERE / "boundaries/pose.npy", "a boundary")).float().flatten()
    generator, rng = torch.Generator().manual_seed(5), np.random.default_rng(0)
    while count:
        z = torch.randn(1, G.config.z_dim, generator=generator)
        with torch.no_grad():
            person = face.Face(G.truncate(G.mapping(z), 0.7).clone())
        shift = float(rng.choice([-1, 1])) * float(rng.uniform(2, 6))
        try:
            before, after = (locator(G, person)(person.ws + s * pose) for s in (0, shift))
        except ValueError:
            continue
        way = np.linalg.norm(after - before, axis=1)
        if fitting := [j for j in HANDLES if 8 <= way[j] <= 15]:
            j, count = int(rng.choice(fitting)), count - 1
            yield person, j, before, after[j]


def truth(G, args):
    same, rows = landmarks.Descriptors(), []
    for person, j, marks, target in turned(G, args.count):
        began, point = time.process_time(), drag_edit.Point(str(j), tuple(marks[j]), tuple(target), False, j)
        followed = None if args.find == "features" else dragging.Followed(locator(G, person), marks, [point], G.resolution)
        found = dragging.drag(G, person, [point], config(args), None, followed)
        seconds, now = time.process_time() - began, locator(G, person)(found.ws)[j]
        pictures = [render.one(G, face.Face(ws)) for ws in (person.ws, found.ws)]
        identity = np.linalg.norm(same(pictures[0]) - same(pictures[1]))
        rows.append([np.linalg.norm(now - target), found.stopped == "reached", found.steps, identity, seconds])
        say(rows, "error px", "reached", "steps", "identity", "CPU s")
    error, done = np.array(rows)[:, 0], np.array(rows)[:, 1]
    print(f"within 1.5 px {np.mean(error <= 1.5):.2f}, within 2 px {np.mean(error <= 2):.2f}, reached {np.mean(done):.2f}")


def photographs(G, args):
    same, rows, sheet = landmarks.Descriptors(), [], []
    for path in face.expand([args.faces]):
        person = face.read_one(path, G)
        worn, before, locate = tuning.worn(G, person.tuned), render.one(G, person), locator(G, person)
        marks, shown = locate(person.ws), [before]
        sure = drag_edit.steady(before, marks)
        for texts, mask in DRAGS.values():
            points = [drag_edit.parsed(text).placed(marks) for text in texts]
            if not all(sure[point.landmark] for point in points):
                print("   ", path.stem, texts[0], "refused: dlib is not sure", flush=True)
                shown.append(np.full_like(before, 255))
                continue
            if not all(0 <= v < G.resolution for point in points for v in (*point.start, *point.target)):
                continue  # chins of tight crops lie below the picture
            allowed, began = masks.read(mask, G.resolution), time.process_time()
            followed = dragging.Followed(locate, marks, points, G.resolution)
            found = dragging.drag(worn, person, points, config(args), allowed, followed)
            after = render.one(G, face.Face(found.ws, person.noise, person.tuned))
            way = np.mean([row.get("way_by_landmarks", 0) for row in drag_edit.reached(points, found)])
            outside = (allowed[0, 0] < 0.5).numpy()
            identity = np.linalg.norm(same(before) - same(after))
            psnr = render.measures(after, before, outside)[0]
            rows.append([way, identity, psnr, found.steps, time.process_time() - began])
            shown.append(drag_edit.drawn(after, [p.start for p in points], [p.target for p in points]))
            say(rows, "way", "identity", "PSNR outside", "steps", "CPU s")
            print("   ", path.stem, texts[0], *(f"{v:.2f}" for v in rows[-1]), found.stopped, flush=True)
        sheet.append(shown)
    way, identity, psnr = np.array(rows).T[:3]
    bars = {"60 % of the way": way >= 0.6, "identity below 0.5": identity < 0.5, "30 dB outside": psnr >= 30}
    for name, over in {**bars, "all three": np.all(list(bars.values()), 0)}.items():
        print(f"{name}: {over.sum()} of {len(over)}")
    if args.sheet:
        images.save(args.sheet, images.sheet(sheet, ["before", *DRAGS], size=256))


def speed(G, args):
    torch.manual_seed(0)
    cli.keep_buffers()
    for kind in ("stylegan2", "stylegan1"):
        big = Generator(Config(kind, args.resolution, 32768 if kind == "stylegan2" else 16384)).freeze()
        ws = torch.randn(1, big.num_ws, 512).requires_grad_()
        for what in ("a step", "a whole one"):
            least = []
            for _ in range(2):
                began = time.process_time()
                made = dragging.features(big, ws, dragging.level(big)) if what == "a step" else big.synthesis(ws)
                made.square().mean().backward()
                least.append(time.process_time() - began)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{kind} at {args.resolution}, {what}: {min(least):.2f} CPU s, peak so far {peak} MiB", flush=True)


def config(args):
    names = ("method", "iteration", "lr", "lambda_mask", "lambda_start", "r1", "r2")
    return settings.Drag(**{name: getattr(args, name) for name in names})


def say(rows, *names):
    values = np.array(rows, float).mean(0)
    print(len(rows), ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True)), flush=True)


def main(argv):
    usual = settings.Drag()
    p = cli.Parser(__doc__)
    p.add_argument("what", choices=("truth", "photographs", "speed"))
    p.add_argument("--count", type=cli.number(int, 1), default=40)
    p.add_argument("--faces", type=Path, default=Path("latent_W"), help="a folder of embedded faces")
    p.add_argument("--sheet", help="of the photographs' drags, to look at")
    p.add_argument("--find", default="auto", choices=drag_edit.FINDS)
    p.add_argument("--resolution", type=int, default=1024)
    p.add_argument("--method", default=usual.method, choices=settings.DRAGS)
    for name in ("iteration", "lr", "lambda_mask", "lambda_start", "r1", "r2"):
        p.add_argument(f"--{name}", type=type(getattr(usual, name)), default=getattr(usual, name))
    args = p.parse_args(argv)
    {"truth": truth, "photographs": photographs, "speed": speed}[args.what](checkpoints.load_generator(), args)


if __name__ == "__main__":
    cli.run(main)
