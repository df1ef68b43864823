"""make_report.py: what the page holds, what it makes of bad folders, and what a real browser shows of it."""

import base64
import html
import importlib
import io
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_report
from editor import files, results
from tests.browser import PROGRAM, Browser

HOSTILE = "<img src=x onerror=alert(1)>"
RANDOM = np.random.default_rng(0)


def picture(path, side=32):
    """A smooth picture of two colours, and another each time."""
    corners = RANDOM.integers(0, 255, (2, 2, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR).save(path)
    return {"path": str(path), "sha256": files.file_hash(path)}


def put(folder, name, **more):
    """A face as encode_image.py records it, with a photograph in folder/in and its picture in folder/s; returns its record's file."""
    said = {"made_by": "encode_image.py", "sources": {"image": picture(folder / "in" / f"{name}.png")}, "psnr": 20.0, "ssim": 0.5}
    said |= {"picture": picture(folder / "s" / f"{name}.png"), "complete": True, "seed": 0} | more
    path = folder / "w" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(said))
    return path


def report(*words):
    """The exit code of make_report.py in this process."""
    return make_report.main([str(word) for word in (*words, "--quiet")])


def data(page):
    """The JSON block of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def shown(page):
    """alt text -> pixels of the pictures inside a page."""
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"[^>]* alt="([^"]+)"', page.read_text(encoding="utf-8"))
    return {html.unescape(alt): np.asarray(Image.open(io.BytesIO(base64.b64decode(kept)))) for kept, alt in found}


# ---------------------------------------------------------------------------------------------------------------------
# What the page holds


def test_pictures_are_exact_and_the_difference_is_times_four(tmp_path):
    put(tmp_path, "a")
    Image.open(tmp_path / "in" / "a.png").resize((64, 64)).save(tmp_path / "in" / "a.png")  # changed, and of another size
    assert report(tmp_path / "w") == 0
    page = tmp_path / "w" / "report.html"
    found = shown(page)
    photograph, rendering = (np.asarray(Image.open(tmp_path / part / "a.png")) for part in ("in", "s"))
    assert np.array_equal(found["photograph of a"], photograph) and np.array_equal(found["rendering of a"], rendering)
    smaller = np.asarray(Image.fromarray(photograph).resize((32, 32), Image.Resampling.LANCZOS))
    apart = np.minimum(4 * np.abs(smaller.astype(int) - rendering), 255)
    assert np.array_equal(found["difference, times four of a"], apart)
    text = page.read_text(encoding="utf-8")
    assert "image was changed since" in text and 'href="../in/a.png"' in text


def test_a_relative_source_is_looked_for_in_the_folder_that_the_record_names(tmp_path, monkeypatch):
    here, there = picture(tmp_path / "here/a.png"), picture(tmp_path / "there/a.png")
    monkeypatch.chdir(tmp_path / "here")
    record = tmp_path / "w/a.json"
    assert results.locate("a.png", record, there["sha256"], str(tmp_path / "there")) == (tmp_path / "there/a.png", True)
    picture(tmp_path / "there/a.png")  # changed since
    assert results.locate("a.png", record, there["sha256"], str(tmp_path / "there")) == (tmp_path / "there/a.png", False)
    assert results.locate("a.png", record, here["sha256"], str(tmp_path / "gone")) == (Path("a.png"), True)


def test_large_pictures_are_small_copies_and_strips_stay_wide(tmp_path):
    put(tmp_path, "a")
    picture(tmp_path / "in" / "a.png", 700)
    picture(tmp_path / "s" / "a.png", 600)
    Image.new("RGB", (900, 100)).save(tmp_path / "w" / "sheet.png")
    assert report(tmp_path / "w") == 0
    found = shown(tmp_path / "w" / "report.html")
    assert {k: v.shape[:2] for k, v in found.items()} == {
        "photograph of a": (256, 256),
        "rendering of a": (256, 256),
        "difference, times four of a": (256, 256),
        "sheet.png of sheet": (100, 900),
    }


def test_what_commands_write_and_the_commands_that_repeat_it(encode, photographs, tmp_path):
    """Embeddings, edits, a morph, samples: their page holds all of them, and each command in it makes the same bytes again."""
    encode("--src_im", "a.png", "--iteration", 3, "--noise_iteration", 2, "--noise_layers", "2-4", "--lambda_noise", 0.1)
    encode("--src_im", "b.png", "--preset", "editable", "--iteration", 0, "--w_iteration", 2, "--tune", 2, "--tune_lr", 0.003, "--seed", 4)
    encode("--src_im", "c.png", "--mask", "box:0,0,1,0.5", "--composite", "--iteration", 4, "--invert_mask")
    encode("--src_im", "c.png", "--space", "w", "--iteration", 2, "--schedule", "constant")
    commands = [
        "semantic_edit.py --latent_file w/a.npy --boundary smile --steps 3 --condition age --layers 0-5 --out_dir edits --save_latents",
        "semantic_edit.py --latent_file w/a.npy --edit smile=2 age=-1.5 --out_dir edits",
        "image_morphing.py --latent_file1 w/a.npy --latent_file2 w/c.npy --frames 3 --easing smooth --out_dir morph",
        "generate.py --seeds 5 --trunc 0.6 --trunc_cutoff 4 --noise_mode random --out_dir seeds",
        "local_edit.py transfer --latent_file1 w/a.npy --latent_file2 w/c.npy --mask box:0,0,1,0.5 --out local/",
    ]
    for words in map(shlex.split, commands):
        assert not importlib.import_module(words[0].removesuffix(".py")).main([*words[1:], "--quiet"])
    folders = ["s", "edits", "morph", "seeds", "local"]
    before = {p: p.read_bytes() for folder in [*folders, "w"] for p in Path(folder).iterdir() if p.suffix in (".npy", ".png", ".npz")}
    assert report(*folders) == 0
    page = Path("s/report.html")
    said = {one["name"]: one for one in data(page)["results"]}
    assert set(said) == {"a", "b", "c", "c_fill_box-0-0-1-0.5", "morph", "seed0005", "a_x_c_box-0-0-1-0.5"}
    assert said["b"]["figures"]["psnr"] == json.loads(Path("w/b.json").read_text())["psnr"]
    assert {"smile -3 to +3 of a", "smile +2, age -1.5 of a", "morph_0002 of morph", "rendering of b"} <= set(shown(page))
    typed = [html.unescape(line) for line in re.findall(r"<pre>(.*?)</pre>", page.read_text(encoding="utf-8"), re.S)]
    assert len(typed) == len(said) + 2
    for path in before:
        path.unlink()
    for words in sorted(map(shlex.split, typed), key=lambda words: words[1] != "encode_image.py"):
        assert not importlib.import_module(words[1].removesuffix(".py")).main([*words[2:], "--quiet"])
    assert [p for p in before if not p.is_file() or p.read_bytes() != before[p]] == []


def test_the_words_that_a_command_was_given_are_the_ones_that_repeat_it(run, G, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b c"):
        np.save(f"{name}.npy", G.mapping.w_avg.repeat(1, G.num_ws, 1).numpy())
    words = ["--latent_file1", "a.npy", "--latent_file2", "b c.npy", "--out", "mix", "--device", "cpu"]
    assert run("image_crossover.py", *words, cwd=tmp_path).returncode == 0
    assert json.loads(Path("mix.json").read_text())["argv"] == words
    assert report(".") == 0
    assert f"<pre>{shlex.join(['python', 'image_crossover.py', *words])}</pre>" in html.unescape(Path("report.html").read_text())
    words = ["--latent_file1", "a.npy", "--latent_file2", "a.npy", "b c.npy", "--out", "many/x"]  # a folder's: done, so skipped
    run("image_crossover.py", *words, cwd=tmp_path)
    assert report("many") == 0
    typed = html.unescape(Path("many/report.html").read_text())
    assert f"<pre>{shlex.join(['python', 'image_crossover.py', *words, '--redo'])}</pre>" in typed


def test_edits_stand_beside_their_face_wherever_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latent = tmp_path / "w" / "a.npy"
    put(tmp_path, "a")
    latent.write_bytes(b"1")
    put(tmp_path, "a", files={"latent": files.file_hash(latent)})
    edit = {"made_by": "semantic_edit.py", "sources": {"latent": {"path": "w/a.npy", "sha256": files.file_hash(latent)}}, "name": "a"}
    for name, at in (("a_smile", [-3.0, 3.0]), ("a_age", [1.5])):
        said = edit | {"picture": picture(Path("e") / f"{name}.png"), "distances": {name[2:]: at}}
        Path("e", f"{name}.json").write_text(json.dumps(said))
    monkeypatch.chdir("/")  # what records name is then looked for from where they lie
    for folders in (["e"], ["w", "e"]):
        assert report(*(tmp_path / folder for folder in folders)) == 0
        page = tmp_path / folders[0] / "report.html"
        assert [one["name"] for one in data(page)["results"]] == ["a"]
        assert {"photograph of a", "rendering of a", "smile -3 to +3 of a", "age +1.5 of a"} <= set(shown(page))
    latent.unlink()
    assert report(tmp_path / "e") == 0 and list(shown(tmp_path / "e" / "report.html")) == ["age +1.5 of a", "smile -3 to +3 of a"]


def test_a_boundary_with_its_scores_and_strips(tmp_path):
    np.save(tmp_path / "smile.npy", np.ones((1, 512)))
    (tmp_path / "smile.json").write_text(json.dumps({"offset": 0.5, "held_out_accuracy": 0.987, "generator_hash": "x"}))
    sources = {
        "latent": {"path": "a.npy", "sha256": "1"},
        "boundary smile": {"path": "smile.npy", "sha256": files.file_hash(tmp_path / "smile.npy")},
    }
    said = {"made_by": "semantic_edit.py", "sources": sources, "name": "a", "distances": {"smile": [-1.0, 1.0]}}
    (tmp_path / "a_smile.json").write_text(json.dumps(said | {"picture": picture(tmp_path / "a_smile.png")}))
    assert report(tmp_path) == 0
    page = tmp_path / "report.html"
    assert list(shown(page)) == ["a: smile -1 to +1 of smile"] and "98.7%" in page.read_text(encoding="utf-8")


def test_a_loss_curve(tmp_path):
    put(tmp_path, "a", history=[[0, 1.0], [1, 0.1], [2, 0.01]])
    put(tmp_path, "b", history=[[1, 1.0], [0, 2.0]])
    put(tmp_path, "c", history=[[0, "x"], 3, None, [1, 2.0]])
    assert report(tmp_path / "w") == 0
    drawn = re.findall(r'<polyline points="([^"]+)"', (tmp_path / "w" / "report.html").read_text(encoding="utf-8"))
    assert drawn == ["1.0,2.0 150.0,40.0 299.0,78.0"]
    many = make_report.curve([[i, 1.0 + i % 7] for i in range(10_001)])
    assert len(many["points"].split()) <= 302 and many["last"] == (10_000, 1.0 + 10_000 % 7)


def test_failures_come_first_and_an_outcome_is_the_last_line(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, name)
    put(tmp_path, "half", complete=False)
    lines = [{"name": "a", "state": "failed", "error": "at first"}, {"name": "a", "state": "done"}, {"name": "b", "state": "failed"},
             {"name": "z.png", "state": "failed", "error": "a text file, <b>expected</b> an image"},
             {"name": "a_and_2_more_smile.png", "state": "done"}]  # fmt: skip
    (tmp_path / "w" / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(tmp_path / "w") == 0
    found = data(tmp_path / "w" / "report.html")["results"]
    assert [(one["name"], one["state"]) for one in found] == [("b", "failed"), ("z.png", "failed"), ("half", "stopped"), ("a", "done")]
    assert "a text file, &lt;b&gt;expected" in (tmp_path / "w" / "report.html").read_text(encoding="utf-8")
    with open(tmp_path / "w" / "runs.jsonl", "a") as f:
        f.write('{"name": "a", "sta')  # of a process that was killed
    assert report(tmp_path / "w") == 1
    found = data(tmp_path / "w" / "report.html")["results"]
    assert [one["name"] for one in found] == ["b", "runs.jsonl", "z.png", "half", "a"]


def test_a_folder_of_pictures_finds_its_latents(encode, photographs, tmp_path, monkeypatch):
    encode("--iteration", 1)
    monkeypatch.chdir("/")
    assert report(tmp_path / "s") == 0
    page = tmp_path / "s" / "report.html"
    assert [one["figures"]["steps"] for one in data(page)["results"]] == [1, 1, 1] and "photograph of c" in shown(page)
    (tmp_path / "w").rename(tmp_path / "elsewhere")
    assert report(tmp_path / "s") == 0
    assert "give the folder of the latents" in page.read_text(encoding="utf-8") and set(data(page)["results"][0]["figures"]) >= {"psnr"}
    assert report(tmp_path / "s", tmp_path / "elsewhere") == 0


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def test_a_large_report_is_split_and_an_older_longer_one_is_tidied_away(tmp_path, monkeypatch):
    for i in range(9):
        put(tmp_path, f"n{i}", psnr=20.0 + i)
    out = tmp_path / "look.html"
    words = (tmp_path / "w", "--out", out)
    assert report(*words) == 0
    whole = data(out)["results"]
    monkeypatch.setattr(make_report, "LIMIT", 24_000)
    assert report(*words) == 0
    every = [tmp_path / "look.html"] + [p for i in range(2, 99) if (p := tmp_path / f"look_{i}.html").exists()]
    assert len(every) > 2 and [one for page in every for one in data(page)["results"]] == whole
    assert all(page.stat().st_size < 24_000 + 16_000 for page in every)  # and what each page has of its own
    text = [page.read_text(encoding="utf-8") for page in every]
    for link in re.findall(r'<a href="([^"#]*)#(r\d+)"', text[0]):
        assert f'<article id="{link[1]}"' in text[every.index(tmp_path / (link[0] or "look.html"))]
    assert len(re.findall(r'data-anchor="', text[0])) == 9 and 'rel="next"' in text[0] and 'rel="next"' not in text[-1]
    foreign = tmp_path / "look_77.html"
    foreign.write_text("mine")
    monkeypatch.undo()
    assert report(*words) == 0 and sorted(p.name for p in tmp_path.glob("*.html")) == ["look.html", "look_77.html"]


def test_pages_of_another_report_stay(tmp_path, monkeypatch):
    """look_2.html may be a report of its own; a folder, a pipe, a text or an older toolkit's page of such a name stays, too."""
    for i in range(9):
        put(tmp_path, f"n{i}")
    look, second = tmp_path / "look.html", tmp_path / "look_2.html"
    (tmp_path / "look_3.html").mkdir()
    os.mkfifo(tmp_path / "look_4.html")
    words = (tmp_path / "w", "--out")
    assert report(*words, second) == 0 and report(*words, look) == 0 and report(*words, look) == 0
    own = second.read_bytes()
    monkeypatch.setattr(make_report, "LIMIT", 24_000)
    before = look.read_bytes()
    with pytest.raises(ValueError, match="look_2.html: is there already, and is no page 2 of this report"):
        report(*words, look)
    assert (second.read_bytes(), look.read_bytes()) == (own, before)
    second.unlink()
    with pytest.raises(ValueError, match="look_3.html: a folder"):
        report(*words, look)
    assert look.read_bytes() == before and not second.exists()  # whole, or not at all
    (tmp_path / "look_3.html").rmdir()
    os.unlink(tmp_path / "look_4.html")
    assert report(*words, look) == 0 and second.exists()
    with pytest.raises(ValueError, match="look_2.html: is there already, and is no page 1 of this report"):
        report(*words, second)
    os.rename(second, tmp_path / "look_02.html")
    os.mkfifo(tmp_path / "look_2.html")
    monkeypatch.undo()
    assert report(*words, look) == 0 and sorted(p.name for p in tmp_path.glob("*.html")) == ["look.html", "look_02.html", "look_2.html"]


def test_an_older_toolkits_first_page_is_replaced_and_others_stay(tmp_path, monkeypatch):
    """They say who wrote them, not of which report they are."""
    for i in range(5):
        put(tmp_path, f"n{i}")
    look, second = tmp_path / "look.html", tmp_path / "look_2.html"
    monkeypatch.setattr(make_report, "LIMIT", 20_000)
    words = (tmp_path / "w", "--out")
    assert report(*words, look) == 0
    for path in (look, second):
        path.write_bytes(re.sub(rb"; page [0-9]+ of [0-9a-f]+", b"", path.read_bytes()))
    with pytest.raises(ValueError, match="look_2.html: is there already"):
        report(*words, look)
    with pytest.raises(ValueError, match="look_2.html: is there already"):
        report(*words, second)
    monkeypatch.undo()
    assert report(*words, look) == 0 and second.exists()
    assert b"; page 1 of " in look.read_bytes()[:1000]


def test_another_file_is_not_replaced(tmp_path, run):
    put(tmp_path, "a")
    (tmp_path / "w" / "report.html").write_text("my own")
    for out in ("w/report.html", "w/a.json", "w"):
        done = run("make_report.py", "w", "--out", out, cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert (tmp_path / "w" / "report.html").read_text() == "my own"


def test_small_and_of_itself(tmp_path):
    """Style and script are small, nothing is named that would be fetched, and the page says what may run in it."""
    put(tmp_path, "a", history=[[0, 1.0], [1, 0.5]])
    assert report(tmp_path / "w") == 0
    assert sum((make_report.TEMPLATES / name).stat().st_size for name in ("page.css", "page.js")) < 20_000
    text = (tmp_path / "w" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|srcset", text) and "default-src 'none'" in text
    assert all('loading="lazy" decoding="async"' in tag and 'alt="' in tag for tag in re.findall(r"<img[^>]*>", text))
    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text


def test_words_go_to_stderr_and_the_page_to_stdout(tmp_path, run):
    put(tmp_path, "a")
    done = run("make_report.py", "w", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "w/report.html\n") and done.stderr.endswith("1 result\n")


# ---------------------------------------------------------------------------------------------------------------------
# Bad folders


def bad(folder, what):
    folder.mkdir()
    path = folder / "x.json"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "photographs":
        picture(folder / "a.png")
    elif what:
        path.write_text(what)


BAD = {
    "empty": "", "fifo": "fifo", "photographs": "photographs", "another's": '{"made_by": "other_tool.py", "toolkit": "9"}', "list": "[1]",
    "none's": '{"a": 1}', "cut": '{"made_by": "encode_im', "deep": '{"a":' * 900 + "1" + "}" * 900, "NaN": '{"psnr": NaN}',
    "number": '{"made_by": 5}',
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_folder_without_records_is_one_line(tmp_path, name, run):
    bad(tmp_path / "f", BAD[name])
    done = run("make_report.py", "f", cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "f: no records of results" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("name", [name for name, what in BAD.items() if what and name != "photographs"])
def test_beside_good_records_it_is_named_and_the_rest_is_shown(tmp_path, name, capsys):
    bad(tmp_path / "w", BAD[name])
    put(tmp_path, "a")
    assert report(tmp_path / "w") == 1
    said = capsys.readouterr().err
    assert "x.json" in said and said.count("failed: ") == 1
    assert [(one["name"], one["state"]) for one in data(tmp_path / "w" / "report.html")["results"]] == [("x", "failed"), ("a", "done")]


@pytest.mark.parametrize("make", [None, "file", "fifo"])
def test_no_folder(tmp_path, make, run):
    path = tmp_path / "f"
    if make:
        path.write_text("") if make == "file" else os.mkfifo(path)
    done = run("make_report.py", path, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "folder of results is expected" in done.stderr


def test_what_is_gone_is_said(tmp_path, capsys):
    for name in "abcd":
        put(tmp_path, name)
    (tmp_path / "in" / "a.png").unlink()
    (tmp_path / "s" / "b.png").unlink()
    (tmp_path / "s" / "c.png").write_text("no picture")
    (tmp_path / "in" / "d.png").unlink()
    os.mkfifo(tmp_path / "in" / "d.png")
    assert report(tmp_path / "w") == 1
    assert capsys.readouterr().err.count("failed: ") == 1  # the rendering; photographs may well be elsewhere
    text = (tmp_path / "w" / "report.html").read_text(encoding="utf-8")
    assert "image is not there any more" in text and "its picture is gone" in text and "cannot be shown" in text
    assert set(shown(tmp_path / "w" / "report.html")) == {"rendering of a", "photograph of b", "photograph of c", "rendering of d"}


ODD = {
    "made_by": "encode_image.py",
    "sources": {"image": {"path": "a\0b", "sha256": 5}, "x": 3, "y": {"path": "/dev/zero"}, "z": {"path": "x" * 9999}},
    "picture": {"path": "\ud800", "sha256": []}, "files": {"latent": 4, "q": {}}, "frames": 5, "name": ["n"], "argv": [1],
    "settings": {"a": "</script><script>alert(1)</script>", "b": [[[1]]]}, "distances": {"x": [None], "y": "z"},
    "psnr": "<b>", "ssim": 10**400, "loss": True, "history": {"a": 1}, "complete": "x", "device": "\u202e\x1b[31m",
    "figures": {"seconds": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    "made_by", ["encode_image.py", "semantic_edit.py", "generate.py", "image_morphing.py", "local_edit.py", "train_boundary.py"]
)
def test_a_record_of_odd_things_is_shown_all_the_same(tmp_path, made_by):
    odd = json.dumps(ODD | {"made_by": made_by}).replace('"seconds": 3', '"seconds": 1e999')
    put(tmp_path, "a")
    (tmp_path / "w" / "b.json").write_text(odd)
    assert report(tmp_path / "w") in (0, 1)
    found = {one["name"]: one for one in data(tmp_path / "w" / "report.html")["results"]}
    assert found["b"]["record"]["settings"] == ODD["settings"] and found["b"]["figures"] == {}


def test_no_letter_of_the_data_can_end_its_block():
    value = {"</script>": "<!--<script>&amp;", "b": "\udce9"}
    assert not set("<>&") & set(make_report.block(value)) and json.loads(make_report.block(value)) == value


def test_a_shell_reads_the_names_as_they_are():
    for name in ("a b", "it's", "two\nlines \udce9 \u202e", "$(x)", "\\n\x1b"):
        done = os.popen(f"bash -c {shlex.quote('printf %s ' + make_report.word(name))} | od -An -v -tx1")
        assert bytes.fromhex(done.read()) == os.fsencode(name)


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


in_a_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with names that are no words, PSNRs that sort otherwise as text, and failures."""
    folder = tmp_path_factory.mktemp("report")
    for name, psnr in ((HOSTILE, 9.5), ("two\nlines", 100.0), ("plain", 23.1), (os.fsdecode(b"\xe9\xff"), 10.25), ("ünï ‮😀", 2e-7)):
        put(folder, name, psnr=psnr, settings={"mask": "</script><script>alert(2)</script><!--"}, history=[[0, 2.0], [9, 1.0]])
    (folder / "w" / "runs.jsonl").write_text(json.dumps({"name": "'\"><svg onload=alert(3)>", "state": "failed", "error": HOSTILE}) + "\n")
    assert report(folder / "w") == 0
    return folder / "w" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def clean(browser, page):
    """Whether the page asked for nothing but itself, and complained of nothing."""
    asked = [url for url in browser.requests if not url.startswith("data:")]
    return asked == [page.as_uri()] and browser.faults == []


def pixels(browser, selector=None):
    return np.asarray(Image.open(io.BytesIO(browser.shot(selector))).convert("RGB")).astype(int)


COLUMN = "[...document.querySelectorAll('#all tbody tr')].filter(r => !r.hidden).map(r => r.cells[{}].textContent)"


@in_a_browser
def test_nothing_leaves_the_page_and_names_are_text(browser, page):
    browser.open(page)
    names = browser.js(COLUMN.format(0))
    assert names[0] == "'\"><svg onload=alert(3)>" and set(names[1:]) == {HOSTILE, r"two\nlines", "plain", r"\udce9\udcff", r"ünï \u202e😀"}
    assert browser.js("[...document.querySelectorAll('article h2')].map(h => h.textContent)") == names
    assert (
        browser.js("document.querySelectorAll('svg').length + document.querySelectorAll('img:not([src^=\"data:image/webp\"])').length") == 5
    )
    held = browser.js("JSON.parse(document.getElementById('data').textContent).results.map(r => r.name)")
    assert "two\nlines" in held and len(held) == 6
    for address in browser.js("[...document.querySelectorAll('article a')].map(a => a.href)"):
        assert address.startswith("file:///") and os.path.isfile(address_of(address)), address
    assert clean(browser, page), (browser.requests, browser.faults)


def address_of(url):
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(url.removeprefix("file://"))


@in_a_browser
def test_a_request_or_a_fault_would_be_seen(browser, tmp_path):
    path = tmp_path / "x.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.log(1); undefined.x</script>")
    browser.open(path)
    assert not clean(browser, path) and len(browser.requests) == 2 and len(browser.faults) >= 2


@in_a_browser
def test_the_slider_moves_the_picture(browser, page):
    browser.open(page)
    browser.js("document.querySelector('.done').scrollIntoView()")
    browser.js("new Promise(f => setTimeout(f, 300))")
    half = pixels(browser, ".stack")
    browser.js("document.querySelector('.slider input').focus()")
    for _ in range(9):
        browser.press("ArrowRight", 39)
    assert browser.js("document.activeElement.value") == "59"
    moved = pixels(browser, ".stack")
    assert (np.abs(moved - half) > 8).any() and moved.shape == half.shape
    browser.press("End", 35)
    before, name = pixels(browser, ".stack"), browser.js("document.activeElement.getAttribute('aria-label')")
    browser.press("Home", 36)
    after = pixels(browser, ".stack")
    inner = np.s_[20:-20, 20:-20]
    alone = {role: pixels(browser, f".done img[data-role={role}]") for role in ("before", "after")}
    assert "photograph of" in name and np.abs(before - alone["before"])[inner].max() < 3 and np.abs(after - alone["after"])[inner].max() < 3
    assert clean(browser, page)


@in_a_browser
def test_sorting_is_by_numbers_and_the_filter_compares(browser, page):
    browser.open(page)
    psnr = COLUMN.format(2)
    click = "document.querySelector('th[data-figure=psnr] button').click()"
    browser.js(click)
    assert browser.js(psnr) == ["2e-07", "9.5", "10.25", "23.1", "100", ""]  # as text, 10 and 100 come before 2 and 9
    assert browser.js("[...document.querySelectorAll('article')].map(a => a.id)") == browser.js(
        "[...document.querySelectorAll('#all tbody tr')].map(r => r.dataset.anchor)"
    )
    browser.js(click)
    assert browser.js(psnr) == ["100", "23.1", "10.25", "9.5", "2e-07", ""]
    assert browser.js("document.querySelector('th[data-figure=psnr]').ariaSort") == "descending"
    write = "(t => {{ const f = document.getElementById('filter'); f.value = t; f.dispatchEvent(new Event('input')) }})({})"
    for words, count in (("psnr<10", 2), ("PSNR >= 23.1", 2), ("failed", 1), ("LINES", 1), ("", 6), ("nothing", 0)):
        browser.js(write.format(json.dumps(words)))
        assert len(browser.js(psnr)) == count == browser.js("[...document.querySelectorAll('article')].filter(a => !a.hidden).length"), (
            words
        )
    assert clean(browser, page)


@in_a_browser
def test_without_javascript_and_in_the_dark(page, tmp_path):
    plain = Browser(tmp_path / "profile", javascript=False, dark=True)
    try:
        plain.open(page)
        seen = pixels(plain)
        assert plain.js("document.querySelectorAll('button, input').length") == 0 and clean(plain, page)
        assert plain.js("document.querySelectorAll('article img').length") == 15
    finally:
        plain.close()
    assert seen[5, 5].max() < 60 and len(np.unique(seen @ [1, 256, 65536])) > 500  # a dark page with pictures in it


@in_a_browser
def test_the_light_page_is_light(browser, page):
    browser.open(page)
    assert pixels(browser)[5, 5].min() > 240
