"""A cluster, by Ray: an actor for each GPU, or for a share of the CPUs, opens a generator once and works on batches of a folder.

Sent are the flags and the names of photographs; back comes what became of each. Photographs, results, weights and the toolkit itself
lie on a share, under the same paths for all. Ray starts, places and watches the actors; this module is imported for --ray alone.
"""

import argparse
import contextlib
import os
import platform
import socket
import threading
from pathlib import Path

import ray

from editor import batches, cli, files

IN_FLIGHT = 2  # batches of an actor: one that it works on, one that waits
ANSWER = 10, 60  # seconds for a connection to be made, and for the cluster to let us in


# ---------------------------------------------------------------------------------------------------------------------
# In the actor


class Actor:
    """What works on batches, on a machine of the cluster."""

    def open(self, opener, args, threads, place, marks):
        """Open the generator; a sentence where that cannot be, else None. marks: {folder: a file that must be seen in it}."""
        import torch

        try:
            for path, mark in {place: None, **marks}.items():
                if not os.path.isdir(path):
                    raise OSError(f"{path}: not shared: there is no such folder on {platform.node()}")
                if mark and not os.path.exists(mark):
                    raise OSError(f"{path}: not shared: on {platform.node()} it is another folder of this name")
                os.chdir(place)  # names are relative to it
            if not args.low_memory:
                cli.keep_buffers()
            self.threads = threads
            torch.set_num_threads(threads)
            self.work = batches.opened(opener, args)
        except (ValueError, OSError) as error:
            return cli.one_line(error)

    def batch(self, items):
        """Work on a batch; what there is to hear of it, the steps left out; a sentence where this machine can work on no more."""
        import torch

        heard, lock = [], threading.Lock()

        def tell(*words):
            with lock:
                if words[0] != "steps":
                    heard.append(words)

        torch.set_num_threads(self.threads)  # it is a thread's
        try:
            self.work.batch(items, tell)
        except KeyboardInterrupt:  # it was told to stop, and kept the best so far
            pass
        except (ValueError, OSError) as error:
            return cli.one_line(error)
        return heard

    def stop(self):
        """Keep the best so far and end."""
        self.work.stopping = True


# ---------------------------------------------------------------------------------------------------------------------
# In the process that asks


def connect(address):
    """Join a cluster.

    Raises:
        OSError, ValueError: there is none, it does not answer in time, or it is of another version.
    """
    advice = "start one with `ray start --head`, on other machines `ray start --address HOST:6379`"
    if address != "auto":
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not (host and port.isdecimal()):
            raise ValueError(f"--ray {address}: expected auto, HOST:PORT or ray://HOST:PORT; {advice}")
        try:
            socket.create_connection((host, int(port)), ANSWER[0]).close()
        except (OSError, OverflowError) as error:
            raise OSError(f"--ray {address}: no cluster answers there ({error}); {advice}") from None
    came = []

    def join():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray answers with a dozen kinds
            came.append(error)

    thread = threading.Thread(target=join, daemon=True)  # it has no time limit of its own, and sets no signals here
    thread.start()
    thread.join(ANSWER[1])
    if thread.is_alive():
        raise OSError(f"--ray {address}: no cluster let us in within {ANSWER[1]} seconds; {advice}")
    if came:
        token = "" if "RAY_AUTH_MODE" in os.environ else " (does it ask for a token? set RAY_AUTH_MODE=token)"
        raise OSError(f"--ray {address}: {' '.join(str(came[0]).split())[:300]}{token}; {advice}")


def shares(count, small):
    """The cluster's GPUs, or without any shares of its CPUs -> (device, how many actors, what each asks for, threads of each).

    Args:
        count: of actors, None: one a GPU; without GPUs one a CPU where the generator is small, else one a machine.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return "cuda", min(count or gpus, gpus), {"num_gpus": 1, "num_cpus": 0}, max(1, cpus // gpus)
    count = count or (cpus if small else len(nodes))
    each = max(1, min(cpus // max(1, count), *(int(node.get("CPU", 0)) or 1 for node in nodes)))
    return "cpu", max(1, count), {"num_cpus": each}, each


class Cluster:
    """Actors that work on batches; arguments as of `workers.Workers`.

    kind: of their devices, "cuda" or "cpu". count: of actors. asks: resources of each. folders: that all must see.
    """

    def __init__(self, opener, args, shared, hear, folders):
        self.kind, self.count, self.asks, self.threads = shared
        self.args = argparse.Namespace(**vars(args) | {"device": self.kind if args.device == "auto" else args.device})
        self.opener, self.hear, self.folders = opener, hear, folders
        self.actors, self.numbers, self.early = {}, iter(range(1, 1 << 30)), 0  # actor: its number, whether it is open
        self.refs = {}  # what is awaited: (actor, batch, or None where it opens)

    def run(self, waiting, done):
        """As of `workers.Workers`."""
        self.queue, self.stopping = batches.Queue(waiting, done), False
        with contextlib.ExitStack() as stack:
            self.marks = {path: mark and stack.enter_context(files.marker(path)) for path, mark in self.folders.items()}
            try:
                self.fill()
                while self.queue.waiting or any(batch for _, batch in self.refs.values()):
                    self.wait()
            except KeyboardInterrupt:
                self.stop()
                raise
            finally:
                for actor in self.actors:
                    ray.kill(actor)

    def wait(self):
        """Hear what comes next."""
        for ref in ray.wait(list(self.refs), timeout=1)[0]:
            with cli.kept_whole():
                self.receive(ref)

    def fill(self):
        """As many actors as there are batches, at most `count`."""
        kind = ray.remote(concurrency_groups={"control": 1}, max_concurrency=1, max_restarts=0, **self.asks)(Actor)
        while len(self.actors) < min(self.count, len(self.queue.waiting) + sum(bool(batch) for _, batch in self.refs.values())):
            actor = kind.remote()
            self.actors[actor] = [next(self.numbers), False]
            marks = {path: str(mark) if mark else None for path, mark in self.marks.items()}
            self.refs[actor.open.remote(self.opener, self.args, self.threads, os.getcwd(), marks)] = actor, None

    def give(self, actor):
        """Batches to an actor, as many as may be in flight."""
        busy = sum(one is actor for one, _ in self.refs.values())
        while self.queue.waiting and busy < IN_FLIGHT and not self.stopping:
            if busy and len(self.queue.waiting) < len(self.actors):  # the last ones to who is free first
                break
            batch = self.queue.waiting.popleft()
            self.refs[actor.batch.remote(batch)] = actor, batch
            busy += 1

    def receive(self, ref):
        """What an actor answers, or that it is no more."""
        if ref not in self.refs:  # of one that was lost meanwhile
            return
        actor, batch = self.refs[ref]
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayActorError as error:
            return self.lost(actor, error=error)
        except ray.exceptions.TaskCancelledError:
            answer = []
        if isinstance(answer, str):
            return self.lost(actor, answer)
        del self.refs[ref]
        if batch is None:
            self.actors[actor][1], self.early = True, 0
        else:
            for words in answer:
                self.hear(self.actors[actor][0], *words)
            self.hear(self.actors[actor][0], "batch", batch)
        self.give(actor)

    def lost(self, actor, refusal=None, error=None):
        """An actor is no more: another one takes its place, unless it said why it cannot open, or all are to end."""
        number, was_open = self.actors.pop(actor)
        had = [batch for one, batch in self.refs.values() if one is actor and batch]
        self.refs = {ref: what for ref, what in self.refs.items() if what[0] is not actor}
        ray.kill(actor)
        if self.stopping:
            return
        self.early += not was_open
        self.count -= bool(refusal)
        if self.count < 1 or self.early >= batches.TRIES:
            said = " ".join(str(error).split())[:300]
            advice = f"does the toolkit lie there under {Path(__file__).parent.parent}, with what it needs?"
            raise OSError(refusal or f"{self.early} actors in a row ended while they opened: {said}; {advice}")
        how = f"cannot work: {refusal}" if refusal else "died"
        self.hear(number, "warn", f"actor {number} {how}; {'the others go on' if refusal else 'another one takes its place'}")
        self.queue.waiting.extendleft(reversed(had[1:]))  # it had not begun these
        if had:
            batches.retried(self.queue, had[0], set(), "its Ray actor died", number, self.hear)
        self.fill()
        for one, (_, ready) in self.actors.items():
            if ready:
                self.give(one)

    def stop(self):
        """Actors write the best so far and end; a second Ctrl-C ends this."""
        self.stopping, begun = True, set()
        for ref, (actor, batch) in list(self.refs.items()):
            if batch and actor not in begun:
                begun.add(actor)
                actor.stop.options(concurrency_group="control").remote()
            else:
                ray.cancel(ref)
                del self.refs[ref]
        while self.refs:
            self.wait()
