"""Two processes of torch.distributed that train as one: what is well defined agrees with one process and the double batch."""

from datetime import timedelta

import pytest
import torch

import stylegan_layers
from stylegan_layers import Config, Discriminator, Generator
from training import processes, trainer
from training.settings import Config as Settings

SIZE = Config("stylegan2", 8, 64, 8, 2, z_dim=16, w_dim=16)
BATCH = 8


def new(seed, rank, ranks, **settings):
    torch.manual_seed(seed)
    config = Settings(batch=BATCH, **settings)
    return trainer.Trainer(Generator(SIZE), Discriminator(SIZE), config, ranks=ranks, rank=rank)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(run, patch):
    """The gradients of each optimiser's steps, the means of a tick and the mean latent, for a batch of which this process has its part."""
    part, found = slice(run.rank, None, run.ranks), []
    z, maps = drawn(BATCH, 16), [drawn(BATCH, 1, r, r) for r in (4, 8, 8)]

    def sample_ws(G, count, *_):
        w = G.mapping(z[part][:count])
        return w[:, None].repeat(1, G.num_ws, 1), w.detach().mean(0)

    patch.setattr(trainer, "sample_ws", sample_ws)
    patch.setattr(stylegan_layers, "noise_maps", lambda layers, noise, ws: [m[part][: len(ws)] for m in maps])
    patch.setattr(torch, "randn_like", lambda x: drawn(BATCH, *x.shape[1:])[part][: len(x)])
    for optimiser in (run.opt_g, run.opt_d):

        def keep(groups=optimiser.param_groups):
            found.append([p.grad.clone() for group in groups for p in group["params"] if p.grad is not None])

        optimiser.step = keep
    real, run.path_mean = drawn(BATCH, 3, 8, 8)[part], 0.5
    rate = run.rate(len(real))
    made = run._generator_step(real, rate)
    run._path_length(len(real), rate)
    run._discriminator_step(made.fake, real, rate)
    run._average(made.w_mean, len(real))
    averages = [v.clone() for v in run.ema.state_dict().values()]
    return {"gradients": found, "tick": run.tick(), "rate": rate, "path_mean": run.path_mean, "w_avg": run.G.w_avg, "averages": averages}


EVERYTHING = {"augment": "ada", "ada_target": 0.0, "path_length": 1.0, "r1_every": 2, "mixing": 0.5, "warm": 0, "reconstruct": 1.0}


def work(rank, folder):
    """What each of the two processes does; its findings go to a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", timedelta(minutes=5), rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        alike = gradients(new(0, rank, 2), patch)
    run, calls, say = new(rank, rank, 2, **EVERYTHING), [], torch.distributed.all_reduce
    run.p = 0.5
    apart = [p.clone() for p in run.G.parameters()]
    run.begin_together()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda t: calls.append(t.numel()) or say(t))
        for i in range(4):
            run.step(drawn(BATCH, 3, 8, 8)[rank::2] * (1 + i))
    state = {k: v for k, v in run.state().items() if not k.startswith("opt")}
    together = {"state": state, "tick": run.tick(), "apart": apart, "calls": calls}
    run.step_count += rank
    try:
        run.begin_together()
        words = None
    except ValueError as error:
        words = str(error)
    torch.save({"alike": alike, "together": together, "words": words}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_gradients_statistics_and_averages_are_those_of_the_double_batch(found):
    with pytest.MonkeyPatch.context() as patch:
        one = gradients(new(0, 0, 1), patch)
    assert len(one["gradients"]) == 4 and one["tick"].keys() >= {"loss_g", "path", "loss_d", "score_real", "sign_real", "r1"}
    for process in found:
        torch.testing.assert_close(process["alike"], one, rtol=1e-5, atol=1e-6)


def test_processes_that_were_seeded_apart_train_one_network(found):
    first, second = (f["together"] for f in found)
    assert not all(map(torch.equal, first["apart"], second["apart"]))
    torch.testing.assert_close(first["state"], second["state"], rtol=0, atol=0)
    assert first["tick"] == second["tick"] and all(isinstance(v, float) for v in first["tick"].values())
    sign = first["tick"]["sign_real"]
    assert first["tick"]["p"] == second["tick"]["p"] == round(0.5 + (1 if sign > 0 else -1) * 4 * BATCH / 500_000, 4)
    assert first["state"]["p"] == pytest.approx(0.5 + (1 if sign > 0 else -1) * 4 * BATCH / 500_000)


def test_gradients_go_in_one_message(found):
    run = new(0, 0, 1, **EVERYTHING)
    sizes = {name: sum(p.numel() for group in getattr(run, f"opt_{name}").param_groups for p in group["params"]) for name in "gdc"}
    calls = found[0]["together"]["calls"]
    large = [n for n in calls if n > SIZE.w_dim]
    assert large[:5] == [sizes["g"], sizes["c"], large[2], sizes["d"], large[4]] and large[2] < sizes["g"]
    assert len(calls) < 4 * 8  # those of the networks, the mean latent, the lengths of paths, ADA's scores


def test_processes_that_go_on_from_different_states_say_so(found):
    for process in found:
        assert process["words"].startswith("the processes go on after different numbers of images (32, 40): give an --out")


REFUSED = [
    (8, 3, 1, "--batch 8: 3 processes share it in even parts; give a multiple of 3$"),
    (2, 4, 1, "--batch 2: 4 processes .* a multiple of 4$"),
    (4, 4, 2, "--batch 4: .* of 2 images or more each; give a multiple of 4 from 8 on$"),
]


@pytest.mark.parametrize("batch, ranks, least, match", REFUSED)
def test_a_batch_that_cannot_be_shared_is_refused(batch, ranks, least, match):
    with pytest.raises(ValueError, match=match):
        processes.share(batch, ranks, least)
    with pytest.raises(ValueError, match=match):
        trainer.Trainer(Generator(SIZE), Discriminator(SIZE), Settings(batch=batch, reconstruct=least - 1.0), ranks=ranks)
    assert processes.share(12, 3, 4) == 4
