"""A folder as one run: what is done, what failed, what is whose; runs.jsonl; files that change meanwhile. In encode_image.py and alone."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest

import encode_image
from editor import batches, cli, files, folder, images
from tests.test_encode import picture, rows, said, stamps


def lines(place="s"):
    return [(line["name"], line["state"]) for line in folder.Journal(place).lines()]


def items(count=3):
    return [folder.Item(str(i), Path(f"{i}.txt"), {"image": Path(f"{i}.txt")}, {"steps": 3}) for i in range(count)]


def test_a_shard_is_a_hash_of_the_name():
    everything = items()
    shares = [folder.of_shard(everything * 20, (i, 3)) for i in (1, 2, 3)]
    assert sorted(item.name for share in shares for item in share) == sorted(item.name for item in everything * 20)
    first = int(hashlib.sha256(b"0").hexdigest()[:16], 16) % 3
    assert everything[0] in shares[first] and folder.of_shard(everything, None) is everything
    assert cli.shard("2/3") == (2, 3)
    for text in ("5/3", "0/3", "1", "1/0", "-1/2", "a/b", "1/2/3", "²/3"):
        with pytest.raises(Exception, match="expected I/N"):
            cli.shard(text)


def add(place, name):
    journal = folder.Journal(place)
    for i in range(200):
        journal.append(name=f"{name}{i}", state="done", padding="x" * 5000)


def test_several_processes_write_whole_lines_and_a_torn_one_costs_itself_alone(tmp_path):
    journal = folder.Journal(tmp_path / "new")
    journal.append(name="first", state="done")
    with open(journal.path, "a") as f:
        f.write('{"name": "torn", "state": "do')
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=add, args=(journal.folder, name)) for name in "abc"]
    for process in others:
        process.start()
    for process in others:
        process.join()
    names = [line["name"] for line in journal.lines()]
    assert sorted(names) == sorted(["first", *(f"{name}{i}" for name in "abc" for i in range(200))])
    assert len(journal.path.read_bytes().splitlines()) == 602
    journal.path.unlink()
    os.mkfifo(journal.path)
    for work in (lambda: list(journal.lines()), lambda: journal.append(name="a", state="done")):
        with pytest.raises(ValueError, match="a pipe or a device"):
            work()


def test_what_failed_is_not_tried_again_unless_it_changed_or_it_was_not_its_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal, every = folder.Journal("s"), items(5)
    for item in every:
        item.path.write_text(item.name)
    run = folder.Run(cli.argparse.Namespace(quiet=True), journal, "x.py")
    for item, error in zip(every, (ValueError("no face"), OSError("full"), ValueError("bad"), ValueError("once"), None), strict=True):
        with run.item(item) as figures:
            if error:
                raise error
            figures["faces"] = 1
    assert run.counts == {"done": 1, "failed": 4, "stopped": 0} and run.failures.exit_code == 1
    Path("2.txt").write_text("another")
    every[3].settings["steps"] = 4

    def planned(**words):
        return folder.plan(every, journal, lambda item: None if item.name == "4" else "not done before", **words)

    found = planned()
    assert [item.name for item in found.left] == ["1", "2", "3"] and [item.name for item in found.done] == ["4"]
    assert found.failed["0"][1] == "no face"
    assert str(found) == "1 of 5 are done already; 1 failed before (--retry tries them again); to do: 3 not done before"
    assert [item.name for item in planned(retry=True).left] == ["0", "1", "2", "3"] and len(planned(redo=True).left) == 5
    with run.item(every[0]):
        pass
    assert "0" in [item.name for item in planned().left], "a later line counts"


def test_a_folder_skips_what_is_done_and_names_what_failed(encode, photographs, capsys):
    Path("in/t.png").write_text("<html>")
    assert encode("--quiet", "--batch_size", 4) == 1 and lines() == [("t", "failed"), ("a", "done"), ("b", "done"), ("c", "done")]
    before = stamps("w", "s")
    capsys.readouterr()
    assert encode("--batch_size", 4) == 1 and stamps("w", "s") == before and len(lines()) == 4
    shown = capsys.readouterr()
    assert shown.out == "" and "3 of 4 are done already; 1 failed before (--retry tries them again)\n" in shown.err
    assert "failed: in/t.png: a web page" in shown.err and "in an earlier run; --retry tries again" in shown.err
    assert encode("--quiet", "--retry") == 1 and lines()[4:] == [("t", "failed")]
    images.save("in/t.png", picture("in/a.png"))
    assert encode("--quiet") == 0 and lines()[5:] == [("t", "done")] and rows() == ["name", "a", "b", "c", "t"]
    assert encode("--redo", "--quiet", "--batch_size", 4) == 0 and len(lines()) == 10
    before = Path("s/runs.jsonl").read_bytes()
    assert encode("--iteration", 3, "--quiet") == 0
    Path("s/runs.jsonl").write_bytes(before)  # a run was killed between the records and their lines: these are of earlier ones
    assert encode("--iteration", 3, "--quiet") == 0
    assert {row["name"]: row["steps"] for row in folder.table_rows("s")} == dict.fromkeys("abct", 3)
    assert encode("--quiet", "--redo") == 0
    Path("s/runs.jsonl").unlink()
    assert encode("--quiet") == 0 and sorted(lines()) == [(name, "done") for name in "abct"]
    with pytest.raises(ValueError, match="--shard: of a folder, and --src_im names one"):
        encode("--src_im", "a.png", "--shard", "1/2")


def test_two_shards_are_one_run(encode, photographs):
    os.rename("in/c.png", "in/d.png")
    assert encode("--quiet") == 0
    for shard, names in (("1/2", "ab"), ("2/2", "abd")):
        assert encode("--quiet", "--shard", shard, "--latent_dir", "w2", "--save_dir", "s2") == 0
        assert sorted(lines("s2")) == [(name, "done") for name in names]
    for name in [f"w/{n}.npy" for n in "abd"] + [f"s/{n}.png" for n in "abd"]:
        assert Path(name).read_bytes() == Path(name.replace("/", "2/")).read_bytes()
    assert len(Path("s2/metrics.csv").read_text().splitlines()) == 4 == len(rows())
    first, second = ({k: v for k, v in said(f"{w}/a.json").items() if k not in ("seconds", "picture")} for w in ("w", "w2"))
    assert first == second


def test_files_that_vanish_change_or_block_meanwhile_are_named(encode, photographs, portraits, monkeypatch, capsys):
    import encode_image

    for name in "def":
        images.save(f"in/{name}.png", portraits[3])
    write = encode_image.write

    def meddling(photo, *rest):
        if photo.path.stem == "a":  # b and c were read with it, d, e and f come next
            Path("in/b.png").unlink()
            images.save("in/c.png", 255 - picture("in/c.png"))
            Path("in/d.png").unlink()
            Path("in/e.png").unlink()
            os.mkfifo("in/e.png")
        return write(photo, *rest)

    monkeypatch.setattr(encode_image, "write", meddling)
    assert encode("--batch_size", 3, "--quiet") == 1
    failed = capsys.readouterr().err
    assert "failed: in/b.png: no such file" in failed and "failed: in/c.png: another picture than when it was read" in failed
    assert "failed: in/d.png: " in failed and "failed: in/e.png: a pipe" in failed and len(failed.splitlines()) == 4
    assert sorted(path.stem for path in Path("w").glob("*.npy")) == ["a", "f"]
    assert encode("--batch_size", 3, "--quiet") == 0 and sorted(path.stem for path in Path("w").glob("*.npy")) == ["a", "c", "f"]


def test_a_journal_that_cannot_be_written_costs_no_results(encode, photographs, monkeypatch, capsys):
    def full(self, **line):
        raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr(folder.Journal, "append", full)
    assert encode("--quiet") == 1 and len(files.visible("w", "*.npy")) == 3
    assert capsys.readouterr().err == "failed: s/runs.jsonl: No space left on device\n"


def test_a_dead_workers_batch_is_tried_once_more_item_by_item():
    done = {"1": {"psnr": 9}}
    queue = batches.Queue([items(4), ["later"]], lambda item: done.get(item.name))
    batch = queue.waiting.popleft()
    known, again = queue.died(batch, {"0"})
    assert [(item.name, figures) for item, figures in known] == [("1", {"psnr": 9})] and again == {"2", "3"}
    assert [[item.name for item in batch] for batch in list(queue.waiting)[:2]] == [["2"], ["3"]] and queue.waiting[2] == ["later"]
    known, again = queue.died(queue.waiting.popleft(), set())
    assert [(item.name, figures) for item, figures in known] == [("2", None)] and not again and len(queue.waiting) == 2


def test_the_journal_is_json_a_line_and_says_who_what_when(encode, photographs):
    assert encode("--quiet", "--src_im", "a.png") == 0
    line = json.loads(Path("s/runs.jsonl").read_text())
    assert line.keys() >= {"name", "state", "seconds", "psnr", "ssim", "loss", "settings", "content", "host", "process", "worker", "time"}
    assert line["psnr"] == said()["psnr"] and line["latent"] == os.path.abspath("w/a.npy") and line["process"] == os.getpid()


@pytest.mark.parametrize("lost", ["w", "s", "in"])
def test_a_share_that_goes_away_ends_the_run_in_one_line_and_nothing_is_lost(encode, photographs, monkeypatch, lost):
    write = encode_image.write

    def goes(photo, *rest):
        said = write(photo, *rest)
        os.rename(lost, "away")
        return said

    with monkeypatch.context() as patch:
        patch.setattr(encode_image, "write", goes)
        with pytest.raises(OSError, match=f"{lost}: gone since this run began; .* the same command goes on"):
            encode("--quiet", "--batch_size", 1)
    assert not Path(lost).exists()
    os.rename("away", lost)
    latent = Path("w/a.npy").stat().st_mtime_ns
    assert encode("--quiet") == 0 and len(list(Path("w").glob("*.npy"))) == 3 and Path("w/a.npy").stat().st_mtime_ns == latent


def test_a_folder_in_another_ones_place_is_seen_and_a_link_to_it_is_not_another_one(tmp_path):
    there, away = tmp_path / "there", tmp_path / "away"
    places = folder.Places(there)
    places.check()  # not made yet
    there.mkdir()
    places.check()
    there.rename(away)
    there.symlink_to(away)
    places.check()
    there.unlink()
    there.mkdir()
    with pytest.raises(folder.Gone, match="there: gone since this run began"):
        places.check()
    there.rmdir()
    there.write_text("a file")
    with pytest.raises(folder.Gone, match="there: gone since this run began"):
        places.check(tmp_path)
