"""`weight_convert.py --to`: our generators in other projects' files, and back again the same."""

import argparse

import pytest
import torch

import weight_convert
from editor import checkpoints, face, tuning
from stylegan3_layers import Config3, Generator3
from stylegan_layers import Config, Generator
from tests.golden.formats import ada_generator, golden_values, rosinality, sg3_state


def written(tmp_path, G, **meta):
    checkpoints.save(tmp_path / "g.safetensors", G, **meta)
    return tmp_path / "g.safetensors"


def exported(source, out, *words):
    assert weight_convert.main([str(source), "--out", str(out), "--quiet", *map(str, words)]) == 0
    return torch.load(out, weights_only=True)


def small(kind="stylegan2", **more):
    torch.manual_seed(0)
    if kind == "stylegan3":
        return Generator3(Config3(kind, 16, 256, 16, 2, 24, 24, **more))
    G = Generator(Config(kind, 16, 256, 32, **{"mapping_layers": 2, "z_dim": 24, "w_dim": 24} | more))
    for value in G.parameters():
        torch.nn.init.normal_(value)
    return G


def same(found, wanted):
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())[:5]
    for name, value in wanted.items():
        assert found[name].shape == value.shape and torch.equal(found[name], value.float()), name


def test_rosinality_and_ada_get_what_their_own_files_hold(tmp_path):
    """Name for name, as their networks load it strictly: buffers, too."""
    values = golden_values("sg2", 2)
    theirs, _ = rosinality(values)
    torch.save({"g_ema": theirs, "latent_avg": values["dlatent_avg"]}, tmp_path / "n.pt")
    found = exported(tmp_path / "n.pt", tmp_path / "r.pt", "--to", "rosinality")
    same(found["g_ema"], theirs)
    assert torch.equal(found["latent_avg"], values["dlatent_avg"])
    same(exported(tmp_path / "r.pt", tmp_path / "a.pt", "--to", "ada")["G_ema"], ada_generator(values))


def test_nvidias_settings_go_along(tmp_path):
    """As its Generator takes them: StyleGAN2-ADA-PyTorch's in synthesis_kwargs, StyleGAN3's beside the others."""
    found = exported(written(tmp_path, small(c_dim=3, conv_clamp=256)), tmp_path / "a.pt", "--to", "ada")["init_kwargs"]
    both = dict(z_dim=24, w_dim=24, img_resolution=16, img_channels=3, mapping_kwargs={"num_layers": 2})
    assert found == both | {"c_dim": 3, "synthesis_kwargs": dict(channel_base=256, channel_max=32, conv_clamp=256)}
    G = small("stylegan3", conv_kernel=1, use_radial_filters=True)
    found = exported(written(tmp_path, G), tmp_path / "b.pt", "--to", "ada")["init_kwargs"]
    assert found | both | dict(conv_kernel=1, use_radial_filters=True, channel_base=256, channel_max=16, c_dim=0, conv_clamp=256) == found
    assert found["filter_size"] == 6 and "mapping_layers" not in found and "kind" not in found


@pytest.mark.parametrize("kind", ["t", "r"])
def test_stylegan3_keeps_its_own_names_and_filters(tmp_path, kind):
    state, _ = sg3_state(kind)
    torch.save(state, tmp_path / "n.pt")
    found = exported(tmp_path / "n.pt", tmp_path / "a.pt", "--to", "ada")["G_ema"]
    assert {name for name in state if "_filter" in name} == {name for name in found if "_filter" in name}
    assert all(torch.allclose(found.pop(name), state.pop(name), atol=1e-6) for name in list(state) if "_filter" in name)
    same(found, state)


ROUNDS = {"rosinality": [small, lambda: small(conv_clamp=256)],
          "ada": [small, lambda: small(c_dim=3, conv_clamp=256), lambda: small(z_dim=16), lambda: small("stylegan3"),
                  lambda: small("stylegan3", c_dim=2, conv_kernel=1, use_radial_filters=True)]}  # fmt: skip


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("project, make", [(project, make) for project, makers in ROUNDS.items() for make in makers])
def test_there_and_back_is_the_same_file(tmp_path, project, make, half):
    """What is known of a generator goes along: its licence, its alignment, and settings that no tensor shows."""
    said = {"license": "CC BY-NC", "source": "mine", "alignment": checkpoints.FFHQ_ALIGNMENT, "perceptual": "vgg16", "data": "faces"}
    source = written(tmp_path, make(), half=half, **said)
    exported(source, tmp_path / "x.pt", "--to", project)
    weight_convert.main([str(tmp_path / "x.pt"), "--out", str(tmp_path / "back.safetensors"), "--quiet"])
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()


def test_what_was_trained_on_elsewhere_is_not_rounded(tmp_path):
    data = exported(written(tmp_path, small(), half=True), tmp_path / "x.pt", "--to", "ada")
    data["G_ema"]["mapping.w_avg"] += 1e-5
    torch.save(data, tmp_path / "x.pt")
    weight_convert.main([str(tmp_path / "x.pt"), "--out", str(tmp_path / "back.safetensors"), "--quiet"])
    assert torch.equal(checkpoints.load_generator(tmp_path / "back.safetensors").w_avg, data["G_ema"]["mapping.w_avg"])


def test_what_the_other_project_lacks_is_refused_or_said(tmp_path, capsys):
    for make, project, said in [
        (lambda: small("stylegan1"), "rosinality", "a stylegan1 generator; rosinality's is StyleGAN2"),
        (lambda: small("stylegan1"), "ada", "a stylegan1 generator; NVIDIA's PyTorch code has"),
        (lambda: small("stylegan3"), "rosinality", "a stylegan3 generator; rosinality's"),
        (lambda: small(c_dim=3), "rosinality", "of 3 classes; rosinality's"),
        (lambda: small(z_dim=16), "rosinality", "with z of 16 and w of 24; rosinality's"),
    ]:
        with pytest.raises(ValueError, match=said):
            exported(written(tmp_path, make()), tmp_path / "x.pt", "--to", project)
        assert not (tmp_path / "x.pt").exists()
    weight_convert.main([str(written(tmp_path, small(conv_clamp=256))), "--out", str(tmp_path / "x.pt"), "--to", "rosinality"])
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/x.pt\n"
    for words in ("self.channels = {4: 32, 8: 32, 16: 16}", "n_mlp=2", "clamps activations to +-256"):
        assert words in said.err
    for words, refused in [
        (["--to", "rosinality", "--out", tmp_path / "x.pt"], "exists; remove it, or choose another name"),
        (["--to", "rosinality", "--out", tmp_path / "x.safetensors"], "ends in .pt"),
    ]:
        with pytest.raises(ValueError, match=refused):
            weight_convert.main([str(tmp_path / "g.safetensors"), *map(str, words)])
    for words in (["--tuned", "a.npy"], ["--to", "ada", "--discriminator", "d.safetensors"]):
        with pytest.raises(SystemExit):
            weight_convert.main([str(tmp_path / "g.safetensors"), *words])


def test_a_tuned_generator_has_a_name_of_its_own():
    args = argparse.Namespace(to="ada", out=None, tuned="latent_W/a_01.npy")
    assert weight_convert._target(args, "G.safetensors", None).name == "G_a_01.ada.pt"


def test_a_file_that_lies_about_its_settings_is_refused(tmp_path):
    data = exported(written(tmp_path, small()), tmp_path / "x.pt", "--to", "ada")
    own = data[weight_convert.OWN]
    for lie, said in [
        ({"config": own["config"].replace("16", "32")}, "missing|not"),
        ({"config": '{"a": 1}'}, "does not know"),
        ({"config": 3}, "not a dict of texts"),
        ({"kind": "stylegan9"}, "stylegan9"),
        ({"alignment": "{}"}, "alignment"),
    ]:
        torch.save(data | {weight_convert.OWN: own | lie}, tmp_path / "y.pt")
        with pytest.raises(ValueError, match=said):
            weight_convert.convert(tmp_path / "y.pt")


@pytest.mark.parametrize("project", ["rosinality", "ada"])
def test_a_tuned_face_leaves_with_its_generator(tmp_path, G, project):
    torch.manual_seed(0)
    names = ["b8.conv1.weight", "b16.conv0.weight", "b32.torgb.bias"]
    tuned = {name: (torch.randn(G.synthesis.get_parameter(name).shape) * 0.05).half() for name in names[:1] + names[2:]}
    tuned[names[1]] = (torch.randn(*G.synthesis.get_parameter(names[1]).shape[:2], 1, 1) * 0.2).half()
    noise = [torch.randn_like(m) for m in face.own_noise(G)]
    ws = G.truncate(G.mapping(torch.randn(1, 512)))
    face.write(tmp_path / "me.npy", ws, {"generator_hash": G.meta["hash"]}, noise, tuned)
    found = exported(G.meta["path"], tmp_path / "x.pt", "--to", project, "--tuned", tmp_path / "me.npy")
    assert "tuned around the face me" in found[weight_convert.OWN]["remark"]
    H, _ = weight_convert.convert(tmp_path / "x.pt")
    person = face.read_one(tmp_path / "me.npy", G)
    assert person.tuned and person.noise
    wanted = tuning.worn(G, person.tuned).synthesis(ws, person.noise)
    assert (H.freeze().synthesis(ws) - wanted).abs().max() < 1e-4 * wanted.std() < (G.synthesis(ws) - wanted).abs().max()
    face.write(tmp_path / "you.npy", ws, {"generator_hash": G.meta["hash"]})
    with pytest.raises(ValueError, match="has neither tuned weights nor noise maps"):
        exported(G.meta["path"], tmp_path / "y.pt", "--to", project, "--tuned", tmp_path / "you.npy")


class Rosinality(torch.nn.Module):
    """rosinality's generator from its description, in its own names: modulated weights, transposed convolution, its kernels."""

    def __init__(self, state):
        super().__init__()
        self.s = {name: value.double() for name, value in state.items()}

    def conv(self, x, w, name, up=False, demodulate=True):
        s, n, side = self.s, len(x), x.shape[2]
        weight = s[f"{name}.weight"][0]
        o, i, k, _ = weight.shape
        style = w @ s[f"{name}.modulation.weight"].T / w.shape[1] ** 0.5 + s[f"{name}.modulation.bias"]
        weight = weight / (i * k * k) ** 0.5 * style.view(n, 1, i, 1, 1)
        if demodulate:
            weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, n * i, side, side)
        if not up:
            return torch.nn.functional.conv2d(x, weight.reshape(n * o, i, k, k), padding=k // 2, groups=n).view(n, o, side, side)
        weight = weight.transpose(1, 2).reshape(n * i, o, k, k)
        x = torch.nn.functional.conv_transpose2d(x, weight, stride=2, groups=n).view(n * o, 1, 2 * side + 1, 2 * side + 1)
        blur = s[f"{name}.blur.kernel"].flip(0, 1)[None, None]
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1)), blur).view(n, o, 2 * side, 2 * side)

    def styled(self, x, w, name, noise, up=False):
        x = self.conv(x, w, f"{name}.conv", up) + self.s[f"{name}.noise.weight"] * self.s[f"noises.noise_{noise}"]
        return torch.nn.functional.leaky_relu(x + self.s[f"{name}.activate.bias"].view(1, -1, 1, 1), 0.2) * 2**0.5

    def upsampled(self, image, kernel):
        n, c, h, _ = image.shape
        wide = torch.zeros(n * c, 1, 2 * h, 2 * h, dtype=image.dtype)
        wide[:, :, ::2, ::2] = image.reshape(n * c, 1, h, h)
        wide = torch.nn.functional.pad(wide, (2, 1, 2, 1))
        return torch.nn.functional.conv2d(wide, kernel.flip(0, 1)[None, None]).view(n, c, 2 * h, 2 * h)

    def forward(self, ws):
        s, ws = self.s, ws.double()
        x = self.styled(s["input.input"].expand(len(ws), -1, -1, -1), ws[:, 0], "conv1", 0)
        image = self.conv(x, ws[:, 1], "to_rgb1.conv", demodulate=False) + s["to_rgb1.bias"]
        for i in range(sum(name.startswith("to_rgbs") and name.endswith(".bias") and "modulation" not in name for name in s)):
            x = self.styled(x, ws[:, 2 * i + 1], f"convs.{2 * i}", 2 * i + 1, up=True)
            x = self.styled(x, ws[:, 2 * i + 2], f"convs.{2 * i + 1}", 2 * i + 2)
            rgb = self.conv(x, ws[:, 2 * i + 3], f"to_rgbs.{i}.conv", demodulate=False) + s[f"to_rgbs.{i}.bias"]
            image = self.upsampled(image, s[f"to_rgbs.{i}.upsample.kernel"]) + rgb
        return image


def test_rosinalitys_network_draws_our_picture(tmp_path):
    """From the exported file by its own arithmetic, which is written here from its description."""
    G = small()
    found = exported(written(tmp_path, G), tmp_path / "x.pt", "--to", "rosinality")
    ws = torch.randn(2, G.num_ws, 24)
    with torch.no_grad():
        ours, theirs = G.synthesis(ws), Rosinality(found["g_ema"])(ws)
    assert (ours - theirs).abs().max() < 1e-4 * ours.std()
