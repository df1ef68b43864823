"""Several processes on one machine: each opens a generator once and works on batches of a folder, the next idle one on the next.

A worker writes results itself, records last, and tells the process that started it what became of them (`folder.Run.hear`). One that is
killed (out of memory, say) is started again, and what it had begun is tried once more. None outlives the process that started it: a
worker whose pipe is closed at the other end goes at once, as if killed.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import traceback

from editor import batches, cli

# ---------------------------------------------------------------------------------------------------------------------
# In the worker


class Voice:
    """What a worker says, from any of its threads."""

    def __init__(self, connection):
        self.connection, self.lock = connection, threading.Lock()

    def __call__(self, *words):
        with self.lock:
            self.connection.send(words)


def listen(connection, inbox, stop):
    """In a thread of its own: batches go to the inbox, None means to keep the best so far and end; without a listener there is no life."""
    try:
        while True:
            batch = connection.recv()
            if batch is None:
                stop()
            else:
                inbox.put(batch)
    except (EOFError, OSError):
        os._exit(1)


def interrupt():
    """What Ctrl-C does, in the main thread of this process."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)  # wakes it where it waits for another thread, too
    else:
        import _thread

        _thread.interrupt_main()


def once(number, frame):
    """A worker is told to stop by who started it, and maybe by a terminal or `kill` as well: the first time counts."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cli.on_signal(number, frame)


def serve(connection, opener, args, threads):
    """A worker's life, in its process."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch and the others read it
    tell, inbox = Voice(connection), queue.SimpleQueue()
    try:
        cli.begin()
        signal.signal(signal.SIGTERM, once)
        threading.Thread(target=listen, args=(connection, inbox, interrupt), daemon=True).start()
        work = batches.opened(opener, args)
        tell("ready")
        while True:
            batch = inbox.get()
            work.batch(batch, tell)
            tell("batch", batch)
    except KeyboardInterrupt:
        tell("stopped")
    except (ValueError, OSError) as error:
        tell("refused", cli.one_line(error))
    except BaseException:
        tell("crashed", traceback.format_exc())


# ---------------------------------------------------------------------------------------------------------------------
# In the process that starts them


@contextlib.contextmanager
def unheard():
    """Processes started within never hear Ctrl-C, which a terminal sends to them too: they are told to stop by who started them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
    """A process. number: counts from 1. batch: what it works on, or None; finished: names of those of it whose outcome is known."""

    def __init__(self, number, opener, args, device, threads):
        context = multiprocessing.get_context("spawn")
        self.number, self.device, self.batch, self.finished, self.ready = number, device, None, set(), False
        self.connection, theirs = context.Pipe()
        args = argparse.Namespace(**vars(args) | {"device": device})
        self.process = context.Process(target=serve, args=(theirs, opener, args, threads), daemon=True)
        with unheard():
            self.process.start()
        theirs.close()  # so that its end closes with the process

    def send(self, message):
        with contextlib.suppress(OSError):  # it is gone: `receive` will see that
            self.connection.send(message)

    def ended(self):
        """How it ended, in words."""
        self.process.join(10)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended ({code})"
        return f"was killed by {signal.Signals(-code).name}" + (" (is memory short?)" if code == -9 else "")

    def kill(self):
        self.process.kill()
        self.process.join()
        self.connection.close()


class Workers:
    """Processes that work on batches.

    Args:
        opener: as of `batches.opened`. args: its flags; each gets `device` of its own. devices: one a process. threads: of each.
        hear: as of `folder.Run`.
    """

    def __init__(self, opener, args, devices, threads, hear):
        self.opener, self.args, self.devices, self.threads, self.hear = opener, args, list(devices), threads, hear
        self.workers, self.early, self.stopping = [], 0, False
        if self.devices.count("cpu") > (cores := os.cpu_count() or 1):
            hear(0, "warn", f"{self.devices.count('cpu')} processes share {cores} cores; more than one a core only takes memory")

    def run(self, waiting, done):
        """Work on all batches. `done`: item -> its figures where it is done by now, else None.

        Raises:
            OSError: no worker opens. RuntimeError: a bug, with the worker's traceback.
            KeyboardInterrupt: Ctrl-C, once the workers have written the best so far; at a second one they are killed.
        """
        self.queue = batches.Queue(waiting, done)
        try:
            self.fill()
            while self.queue.waiting or any(worker.batch for worker in self.workers):
                self.wait()
        except KeyboardInterrupt:
            self.stopping = True
            self.stop()
            raise
        finally:
            for worker in self.workers:
                worker.kill()

    def wait(self):
        """Hear what comes next."""
        for connection in multiprocessing.connection.wait([worker.connection for worker in self.workers]):
            with cli.kept_whole():
                self.receive(next(worker for worker in self.workers if worker.connection is connection))

    def fill(self):
        """As many workers as there are batches, one a device."""
        free = list(self.devices)
        for worker in self.workers:
            free.remove(worker.device)
        idle = sum(worker.batch is None for worker in self.workers)
        for device in free[: max(0, len(self.queue.waiting) - idle)]:
            number = next(n for n in range(1, len(self.devices) + 1) if n not in [worker.number for worker in self.workers])
            self.workers.append(Worker(number, self.opener, self.args, device, self.threads))

    def give(self, worker):
        """The next batch to an idle worker."""
        if self.queue.waiting and not self.stopping:
            worker.batch, worker.finished = self.queue.waiting.popleft(), set()
            worker.send(worker.batch)

    def receive(self, worker):
        """One message of a worker, or that it is no more."""
        try:
            kind, *words = worker.connection.recv()
        except (EOFError, OSError):
            kind, words = "stopped", []
        if kind == "crashed":
            raise RuntimeError(f"in worker {worker.number}:\n{words[0]}")
        if kind in ("stopped", "refused"):
            self.lost(worker, *words)
            return
        if kind == "ready":
            worker.ready, self.early = True, 0
        elif kind == "batch":
            worker.batch = None
        early = kind == "outcome" and words[1] == "stopped" and not self.stopping  # it was told to stop by somebody else
        if kind == "outcome" and not early:
            worker.finished.add(words[0].name)
        if kind != "ready" and not early:
            self.hear(worker.number, kind, *words)
        if kind in ("ready", "batch"):
            self.give(worker)

    def lost(self, worker, refusal=None):
        """A worker ended: another one takes its place, unless it said why it cannot open, or all are to end."""
        self.workers.remove(worker)
        how = f"cannot work on {worker.device}: {refusal}" if refusal else worker.ended()
        worker.kill()
        if self.stopping:
            return
        if worker.ready and refusal:  # it worked, so this is no matter of its device
            raise OSError(refusal)
        self.early += not worker.ready
        if refusal:
            self.devices.remove(worker.device)
        if not self.devices or self.early >= batches.TRIES:
            raise OSError(refusal or f"{self.early} workers in a row ended while they opened; the last one {how}")
        then = "the others go on" if refusal else "another one takes its place"
        self.hear(worker.number, "warn", f"worker {worker.number} {how}; {then}")
        if worker.batch:
            batches.retried(self.queue, worker.batch, worker.finished, f"the worker {how}", worker.number, self.hear)
        self.fill()
        for one in self.workers:
            if one.ready and one.batch is None:
                self.give(one)

    def stop(self):
        """Workers write the best so far and end; a second Ctrl-C ends this."""
        for worker in list(self.workers):
            if worker.batch:
                worker.send(None)
            else:
                self.workers.remove(worker)
                worker.kill()
        while self.workers:
            self.wait()


# ---------------------------------------------------------------------------------------------------------------------
# For commands


def devices(args):
    """The devices of --workers, --devices and --ray, one a process; [] where none was asked for.

    Raises:
        ValueError, OSError: one is not there; flags that say the same; no cluster, or no Ray.
    """
    if args.devices and args.workers:
        raise ValueError(f"--workers {args.workers}: --devices has a process for each device already; leave one of the two out")
    if args.ray:
        if args.devices:
            raise ValueError("--devices: of this machine; with --ray each GPU of the cluster has an actor, or --workers N says how many")
        device, count, *_ = clustered(args)
        return [device] * count
    from editor import session

    return [str(session.device(name)) for name in args.devices or [args.device] * (args.workers or 0)]


def clustered(args):
    """--ray -> what `cluster.shares` says of the cluster, which is joined once.

    Raises:
        ValueError, OSError: no Ray here, or no cluster there.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--ray needs Ray ({error}): pip install -r requirements-ray.txt") from None
    from editor import checkpoints, cluster

    if not ray.is_initialized():
        cluster.connect(args.ray)
    return cluster.shares(args.workers, checkpoints.read_metadata(args.weight_file)["resolution"] <= 256)


def share(opener, args, work, waiting, run, figures, folders, latents):
    """Work on batches in this process, or as --workers, --devices and --ray say.

    Args:
        opener: as of `batches.opened`. work: what it makes, for this process, with `why(item)`. run: a `folder.Run`.
        figures: item that is done -> what a line says of it.
        folders: {folder that all machines of a cluster must see: whether it is written to}.
        latents: the folder where, after Ctrl-C, the best so far is.
    """
    done = batches.unless(work.why, figures)
    try:
        if args.ray and waiting:
            from editor import cluster

            cluster.Cluster(opener, args, clustered(args), run.hear, folders).run(waiting, done)
        elif names := devices(args) if waiting else []:
            import torch

            Workers(opener, args, names, max(1, torch.get_num_threads() // len(names)), run.hear).run(waiting, done)
        else:
            batches.alone(work, waiting, run.hear)
    except KeyboardInterrupt as error:
        kept = f"the best so far is in {latents}" if run.counts["done"] or run.counts["stopped"] else "nothing new was written"
        error.args = (f"{kept}, and {'--resume' if run.failures.single else 'the same command'} goes on",)
        raise
