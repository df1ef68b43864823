"""Every flag of every command has a test that sees its effect in what the command makes: a new flag without one fails here."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"))

ENCODE = "tests/test_encode.py::"
CHANGES = ENCODE + "test_flags_change_the_latent"
NOISE = ENCODE + "test_flags_of_the_noise_change_the_noise_alone"
PLACE = ENCODE + "test_flags_that_change_no_number_reach_their_place"
SESSION = "tests/test_session.py::test_flags_reach_the_session"
SHARED = {  # flags of `cli` that one function reads for all commands; a command may name a test of its own
    "version": "tests/test_arrows.py::test_help_and_version_answer_without_torch",
    "help": "tests/test_arrows.py::test_help_and_version_answer_without_torch",
    "list": "tests/test_cli.py::test_list_shows_what_can_be_named",
    "quiet": "tests/test_cli.py::test_paths_go_to_stdout_whole_and_words_to_stderr",
    "device": "tests/test_session.py::test_devices_that_are_not_there",
    "precision": SESSION,
    "seed": SESSION,
    "force": SESSION,
    "no_saved_noise": SESSION,
    "compile": SESSION,
    "low_memory": PLACE,
    "perceptual": "tests/test_session.py::test_the_checkpoint_names_the_distance",
    "weight_file": ENCODE + "test_weight_file_and_force",
}
SEEN = {  # command -> flag -> where a test sees its effect
    "encode_image": {
        "src_im": ENCODE + "test_quiet_and_what_is_said_otherwise",
        "src_dir": ENCODE + "test_another_photographs_result_is_not_replaced",
        "latent_dir": ENCODE + "test_script_writes_what_it_says_and_repeats_itself",
        "save_dir": ENCODE + "test_script_writes_what_it_says_and_repeats_itself",
        "iteration": CHANGES,
        "batch_size": ENCODE + "test_batch_size_is_how_many_are_optimised_together",
        "resolution": PLACE,
        "space": CHANGES,
        "init": ENCODE + "test_init_starts_with_the_files_noise_and_the_result_keeps_it",
        "lr": CHANGES,
        "schedule": CHANGES,
        "lambda_mse": CHANGES,
        "lambda_percep": CHANGES,
        "perceptual": CHANGES,
        "layers": ENCODE + "test_layers_say_which_may_move",
        "noise_iteration": NOISE,
        "noise_lr": NOISE,
        "noise_layers": NOISE,
        "lambda_noise": NOISE,
        "joint": CHANGES,
        "lambda_start": CHANGES,
        "lambda_prior": CHANGES,
        "mask": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "invert_mask": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "composite": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "save_every": ENCODE + "test_pictures_and_animations_on_the_way",
        "save_video": ENCODE + "test_pictures_and_animations_on_the_way",
        "early_stop": ENCODE + "test_early_stop",
        "resume": ENCODE + "test_resume_asks_the_record",
        "compile": PLACE,
        "low_memory": PLACE,
        "device": PLACE,
        "precision": CHANGES,
        "seed": CHANGES,
        "quiet": ENCODE + "test_quiet_and_what_is_said_otherwise",
        "force": ENCODE + "test_weight_file_and_force",
        "no_saved_noise": ENCODE + "test_init_starts_with_the_files_noise_and_the_result_keeps_it",
        "weight_file": ENCODE + "test_weight_file_and_force",
    },
}
TODO = {name: "all of them" for name in SCRIPTS if name not in SEEN}  # commands whose flags wait for their tests; this is to become empty


def parsers(name, monkeypatch):
    """The parser of a command, and those of its subcommands: what parse_args is called on."""
    from editor import cli

    class Found(Exception):
        pass

    def found(self, *words):
        raise Found(self)

    monkeypatch.setattr(cli.Parser, "parse_args", found)
    with pytest.raises(Found) as raised:
        importlib.import_module(name).main([])
    return raised.value.args[0]


def flags(parser):
    """The names of all flags and arguments; those of subcommands with theirs."""
    names = set()
    for action in parser._actions:
        if isinstance(action.choices, dict) and all(hasattr(inner, "_actions") for inner in action.choices.values()):
            names |= {flag for inner in action.choices.values() for flag in flags(inner)}
        else:
            long = [word for word in action.option_strings if word.startswith("--")]
            names.add(long[0].lstrip("-") if long else action.dest)
    return names


def named_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_has_a_test_that_sees_it(name, monkeypatch):
    if name in TODO:
        pytest.skip(f"no tests named yet: {TODO[name]}")
    there, named = flags(parsers(name, monkeypatch)), SHARED.keys() | SEEN[name].keys()
    assert not there - named, f"{name}.py: flags without a test: {', '.join(sorted(there - named))}"
    assert not SEEN[name].keys() - there, f"{name}.py has no {', '.join(sorted(SEEN[name].keys() - there))}"


@pytest.mark.parametrize("place", sorted({place for table in [SHARED, *SEEN.values()] for place in table.values()}))
def test_the_tests_that_are_named_exist(place):
    path, _, name = place.partition("::")
    assert name in named_in(path), f"{place}: no such test"


def test_a_new_flag_is_seen():
    from editor import cli

    p = cli.Parser("x")
    p.add_argument("--a-b", "-a")
    p.add_argument("name")
    p.add_subparsers().add_parser("inner", doc="y").add_argument("--deep")
    assert flags(p) == {"help", "version", "a-b", "name", "deep"}
