"""kill -9 at random moments: is anything lost, done twice, or other than in an undisturbed run?

    python -m benchmarks.bench_kill --photographs 200 --kills 20 --way alone workers shards

A folder of samples of the bundled generator is encoded once undisturbed, and once for each way while it is killed: alone; two worker
processes (the parent and a worker in turns); two shards (one of the two in turns); ray (a local cluster of two CPUs that this starts, the
parent and an actor in turns). A killed command is started again. Prints a line a kill and a summary a way; exit code 1 where one fails.
"""

import hashlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from editor import checkpoints, cli, folder, images

WAYS = ("alone", "workers", "shards", "ray")


def photographs(place, count):
    """Samples of the bundled generator, PLACE/in/0000.png and so on."""
    import torch

    G = checkpoints.load_generator()
    with torch.no_grad():
        for i in range(count):
            z = torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(i))
            images.save(place / "in" / f"{i:04}.png", images.to_uint8(G(z, 0.7))[0])


def commands(way, place, iteration, address):
    """The command lines that run at the same time."""
    words = [sys.executable, checkpoints.HERE / "encode_image.py", "--src_dir", place / "in", "--latent_dir", place / way / "w", "--quiet",
             "--save_dir", place / way / "s", "--preset", "exact", "--iteration", str(iteration), "--batch_size", "4"]  # fmt: skip
    more = {"workers": [["--workers", "2"]], "shards": [["--shard", "1/2"], ["--shard", "2/2"]], "ray": [["--ray", address]]}
    return [[*words, *some] for some in more.get(way, [[]])]


def victims(processes, word):
    """The worker processes of a command, or a cluster's actors."""
    parents, found = {process.pid for process in processes}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            ours = parent in parents or word == b"ray::Actor"
            if ours and word in (entry / "cmdline").read_bytes() and os.stat(entry).st_uid == os.getuid():
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def state(place):
    """{file: hash} of latents, and of pictures; {name: record without what differs from run to run}; and when each latent was written."""
    files = [*(place / "w").glob("[!.]*.npy"), *(place / "s").glob("[!.]*.png")]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    records = {}
    for path in (place / "w").glob("[!.]*.json"):
        said = json.loads(path.read_text())  # whole, or this fails
        records[path.stem] = {key: value for key, value in said.items() if key not in ("seconds", "picture", "argv")}
    return hashes, records, {path.name: path.stat().st_mtime_ns for path in (place / "w").glob("[!.]*.npy")}


def whole(place):
    """Names whose record is there and names the latent that lies beside it."""
    found = set()
    for path in (place / "w").glob("[!.]*.json"):
        latent, said = path.with_suffix(".npy"), json.loads(path.read_text())
        if latent.is_file() and said["files"]["latent"] == hashlib.sha256(latent.read_bytes()).hexdigest():
            found.add(path.stem)
    return found


def disturbed(way, place, args, address, moments):
    """Run one way, killed at so many moments; returns how many results were made twice."""
    twice, lines = 0, commands(way, place, args.iteration, address)
    running = [None] * len(lines)
    for kill in range(args.kills + 1):
        for i, line in enumerate(lines):
            if running[i] is None or running[i].poll() is not None:
                running[i] = subprocess.Popen(line)
        if kill == args.kills:
            break
        done = whole(place / way)
        before = {name: stamp for name, stamp in state(place / way)[2].items() if Path(name).stem in done}
        time.sleep(moments.uniform(0.5, args.longest))
        targets = victims(running, b"ray::Actor" if way == "ray" else b"spawn_main") if kill % 2 and way in ("workers", "ray") else []
        target = targets[0] if targets else running[kill % len(running)].pid
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not targets:
            running[kill % len(running)].wait()
        after = state(place / way)[2]
        twice += sum(after.get(name) != stamp for name, stamp in before.items())
        print(f"{way}: kill {kill + 1} ({'worker' if targets else 'parent'}), {len(done)} whole before, {len(after)} after", flush=True)
    codes = [process.wait() for process in running]
    return twice, codes


def cluster(stack, place):
    """Start a local Ray of two CPUs; its address. It ends with the stack."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    words = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={port}",
             "--object-store-memory=100000000", "--disable-usage-stats"]  # fmt: skip
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True))
    log = stack.enter_context(open(place / "ray.log", "w"))
    head = subprocess.Popen([Path(sys.executable).with_name("ray"), *words, f"--temp-dir={folder}"], stdout=log, stderr=log)
    stack.callback(head.wait)
    stack.callback(head.terminate)
    while "Ray runtime started" not in (place / "ray.log").read_text():
        if head.poll() is not None:
            raise OSError(f"Ray did not start; see {place / 'ray.log'}")
        time.sleep(0.2)
    return f"127.0.0.1:{port}"


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--photographs", type=cli.number(int, 1), default=200)
    parser.add_argument("--kills", type=cli.number(int, 0), default=20)
    parser.add_argument("--iteration", type=cli.number(int, 0), default=5)
    parser.add_argument("--longest", type=cli.number(float, 0.5), default=30.0, help="seconds between two kills at most (default: 30)")
    parser.add_argument("--way", nargs="+", default=WAYS[:3], choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place, bad = Path(name), []
        photographs(place, args.photographs)
        (line,) = commands("plain", place, args.iteration, None)
        began = time.time()
        subprocess.run(line, check=True)
        print(f"undisturbed: {time.time() - began:.0f} s", flush=True)
        wanted, records, _ = state(place / "plain")
        for way in args.way:
            moments, address = random.Random(args.seed), cluster(stack, place) if way == "ray" else None
            twice, codes = disturbed(way, place, args, address, moments)
            hashes, found, _ = state(place / way)
            lines = [one["name"] for one in folder.Journal(place / way / "s").lines() if one["state"] == "done"]
            rows = len((place / way / "s" / "metrics.csv").read_text().splitlines()) - 1
            said = {"lost": len(wanted.keys() - hashes.keys()), "other bytes": [k for k, v in wanted.items() if hashes.get(k) != v],
                    "other records": sum(found.get(k) != v for k, v in records.items()), "done twice": twice, "exit codes": codes,
                    "names in runs.jsonl": len(set(lines)), "rows": rows}  # fmt: skip
            print(way, json.dumps(said), flush=True)
            good = [0, [], 0, 0, [0] * len(codes), args.photographs, args.photographs]
            bad += [way] * (list(said.values()) != good)
    return 1 if bad else 0


if __name__ == "__main__":
    cli.run(main)
