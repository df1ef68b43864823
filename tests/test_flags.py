"""Every flag of every command has a test that sees its effect in what the command makes: a new flag without one fails here."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"))

ENCODE = "tests/test_encode.py::"
CHANGES = ENCODE + "test_flags_change_the_latent"
FOLDER = "tests/test_folder.py::"
ALIGN = "tests/test_align.py::test_a_folder_skips_what_is_done_and_names_what_failed"
SEMANTIC = "tests/test_semantic.py::test_a_folder_skips_what_is_done"
EDITABLE = "tests/test_editable.py::"
TUNING = EDITABLE + "test_flags_of_the_tuning_change_the_weights"
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
    "tuned_strength": "tests/test_wearing.py::test_every_command_carries_the_weights",
    "compile": SESSION,
    "low_memory": PLACE,
    "class": "tests/test_classes.py::test_commands_that_embed_take_it",
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
        "preset": EDITABLE + "test_presets_are_defaults_of_flags",
        "w_iteration": TUNING,
        "tune": TUNING,
        "tune_form": TUNING,
        "tune_lr": TUNING,
        "tune_locality": TUNING,
        "tune_until": EDITABLE + "test_tune_until_ends_early",
        "tune_together": EDITABLE + "test_tune_together_makes_one_set_of_weights",
        "batch_size": ENCODE + "test_batch_size_is_how_many_are_optimised_together",
        "unaligned": "tests/test_stylegan3_use.py::test_a_face_is_encoded_as_it_lies",
        "resolution": PLACE,
        "space": CHANGES,
        "class": "tests/test_classes.py::test_encode_begins_with_the_class",
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
        "lambda_cosine": CHANGES,
        "coarse": CHANGES,
        "mask": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "invert_mask": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "composite": ENCODE + "test_a_fill_in_never_replaces_the_embedding",
        "save_every": ENCODE + "test_pictures_and_animations_on_the_way",
        "save_video": ENCODE + "test_pictures_and_animations_on_the_way",
        "early_stop": ENCODE + "test_early_stop",
        "resume": ENCODE + "test_resume_asks_the_record",
        "redo": FOLDER + "test_a_folder_skips_what_is_done_and_names_what_failed",
        "retry": FOLDER + "test_a_folder_skips_what_is_done_and_names_what_failed",
        "shard": FOLDER + "test_two_shards_are_one_run",
        "workers": "tests/test_workers.py::test_workers_give_one_process_bytes_and_survive_a_kill",
        "ray": "tests/test_cluster.py::test_a_cluster_gives_one_process_bytes_and_survives_the_death_of_an_actor",
        "devices": "tests/test_workers.py::test_a_worker_for_each_device_ends_with_the_process_that_started_them",
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
    "image_morphing": {
        "latent_file1": "tests/test_morph.py::test_the_flag_acts",
        "latent_file2": "tests/test_morph.py::test_the_flag_acts",
        "latent_files": "tests/test_morph.py::test_the_flag_acts",
        "frames": "tests/test_morph.py::test_the_flag_acts",
        "easing": "tests/test_morph.py::test_the_flag_acts",
        "loop": "tests/test_morph.py::test_the_flag_acts",
        "out_dir": "tests/test_morph.py::test_the_flag_acts",
        "animation": "tests/test_morph.py::test_the_flag_acts",
        "fps": "tests/test_morph.py::test_the_flag_acts",
        "width": "tests/test_morph.py::test_the_flag_acts",
        "save_latents": "tests/test_morph.py::test_the_flag_acts",
        "batch_size": "tests/test_morph.py::test_the_flag_acts",
        "no_saved_noise": "tests/test_morph.py::test_the_flag_acts",
        "force": "tests/test_morph.py::test_the_flag_acts",
        "weight_file": "tests/test_morph.py::test_the_flag_acts",
        "device": "tests/test_morph.py::test_the_flag_acts",
        "precision": "tests/test_morph.py::test_the_flag_acts",
        "seed": "tests/test_morph.py::test_the_flag_acts",
        "quiet": "tests/test_morph.py::test_the_flag_acts",
        "list": "tests/test_morph.py::test_the_flag_acts",
    },
    "image_crossover": {
        "latent_file1": "tests/test_crossover.py::test_the_flag_acts",
        "latent_file2": "tests/test_crossover.py::test_the_flag_acts",
        "redo": "tests/test_crossover.py::test_a_list_skips_what_is_done",
        "retry": "tests/test_crossover.py::test_a_list_skips_what_is_done",
        "shard": "tests/test_crossover.py::test_a_list_skips_what_is_done",
        "layers": "tests/test_crossover.py::test_the_flag_acts",
        "src_im1": "tests/test_crossover.py::test_the_flag_acts",
        "src_im2": "tests/test_crossover.py::test_the_flag_acts",
        "src_dir": "tests/test_crossover.py::test_the_flag_acts",
        "mask": "tests/test_crossover.py::test_the_flag_acts",
        "invert_mask": "tests/test_crossover.py::test_the_flag_acts",
        "blur": "tests/test_crossover.py::test_the_flag_acts",
        "iteration": "tests/test_crossover.py::test_the_flag_acts",
        "noise_iteration": "tests/test_crossover.py::test_the_flag_acts",
        "perceptual": "tests/test_crossover.py::test_the_flag_acts",
        "compile": "tests/test_crossover.py::test_the_flag_acts",
        "low_memory": "tests/test_crossover.py::test_the_flag_acts",
        "out": "tests/test_crossover.py::test_the_flag_acts",
        "no_saved_noise": "tests/test_crossover.py::test_the_flag_acts",
        "force": "tests/test_crossover.py::test_the_flag_acts",
        "weight_file": "tests/test_crossover.py::test_the_flag_acts",
        "device": "tests/test_crossover.py::test_the_flag_acts",
        "precision": "tests/test_crossover.py::test_the_flag_acts",
        "seed": "tests/test_crossover.py::test_the_flag_acts",
        "quiet": "tests/test_crossover.py::test_the_flag_acts",
        "list": "tests/test_crossover.py::test_the_flag_acts",
    },
    "facial_exchange": {
        "w_iteration": "tests/test_exchange.py::test_the_flag_acts",
        "tune": "tests/test_exchange.py::test_the_flag_acts",
        "hold": "tests/test_exchange.py::test_the_flag_acts",
        "along": "tests/test_exchange.py::test_the_flag_acts",
        "src_im1": "tests/test_exchange.py::test_the_flag_acts",
        "src_im2": "tests/test_exchange.py::test_the_flag_acts",
        "src_dir": "tests/test_exchange.py::test_the_flag_acts",
        "iteration": "tests/test_exchange.py::test_the_flag_acts",
        "lambda_style": "tests/test_exchange.py::test_the_flag_acts",
        "lambda_content": "tests/test_exchange.py::test_the_flag_acts",
        "perceptual": "tests/test_exchange.py::test_the_flag_acts",
        "compile": "tests/test_exchange.py::test_the_flag_acts",
        "low_memory": "tests/test_exchange.py::test_the_flag_acts",
        "latent_file1": "tests/test_exchange.py::test_the_flag_acts",
        "latent_file2": "tests/test_exchange.py::test_the_flag_acts",
        "target": "tests/test_exchange.py::test_the_flag_acts",
        "neutral": "tests/test_exchange.py::test_the_flag_acts",
        "expression": "tests/test_exchange.py::test_the_flag_acts",
        "layers": "tests/test_exchange.py::test_the_flag_acts",
        "strength": "tests/test_exchange.py::test_the_flag_acts",
        "change": "tests/test_exchange.py::test_the_flag_acts",
        "threshold": "tests/test_exchange.py::test_the_flag_acts",
        "out_dir": "tests/test_exchange.py::test_the_flag_acts",
        "no_saved_noise": "tests/test_exchange.py::test_the_flag_acts",
        "force": "tests/test_exchange.py::test_the_flag_acts",
        "weight_file": "tests/test_exchange.py::test_the_flag_acts",
        "device": "tests/test_exchange.py::test_the_flag_acts",
        "precision": "tests/test_exchange.py::test_the_flag_acts",
        "seed": "tests/test_exchange.py::test_the_flag_acts",
        "quiet": "tests/test_exchange.py::test_the_flag_acts",
        "list": "tests/test_exchange.py::test_the_flag_acts",
    },
    "semantic_edit": {
        "redo": SEMANTIC,
        "retry": SEMANTIC,
        "shard": SEMANTIC,
        "latent_file": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "boundary": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "start_distance": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "end_distance": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "steps": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "out_dir": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "save_latents": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "no_saved_noise": "tests/test_semantic.py::test_a_strip_is_a_sheet_of_its_latents_pictures",
        "mode": "tests/test_semantic.py::test_absolute_ends_at_the_distance_asked_for",
        "edit": "tests/test_semantic.py::test_several_edits_make_one_whole_face",
        "channel": "tests/test_directions.py::test_every_command_carries_a_channel",
        "condition": "tests/test_semantic.py::test_several_edits_make_one_whole_face",
        "layers": "tests/test_semantic.py::test_several_edits_make_one_whole_face",
        "animation": "tests/test_semantic.py::test_animations_go_there_and_back",
        "frames": "tests/test_semantic.py::test_animations_go_there_and_back",
        "fps": "tests/test_semantic.py::test_animations_go_there_and_back",
        "width": "tests/test_semantic.py::test_animations_go_there_and_back",
        "force": "tests/test_semantic.py::test_force_takes_another_generators",
        "boundary_dir": "tests/test_semantic.py::test_all_that_fit_are_followed_and_hidden_files_are_none",
        "quiet": "tests/test_semantic.py::test_several_faces_get_a_strip_each_and_a_sheet_of_all",
    },
    "find_directions": {
        "method": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "count": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "layers": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "samples": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "distance": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "out_dir": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "name": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "seed": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "quiet": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "weight_file": "tests/test_directions.py::test_the_command_writes_what_other_commands_take",
        "scores": "tests/test_directions.py::test_channels_by_scores_of_ones_own",
        "latents": "tests/test_directions.py::test_channels_by_scores_of_ones_own",
        "column": "tests/test_directions.py::test_channels_by_scores_of_ones_own",
        "torgb": "tests/test_directions.py::test_channels_by_scores_of_ones_own",
        "attribute": "tests/test_directions.py::test_an_attributes_channels_are_read_and_purified",
        "faces": "tests/test_directions.py::test_an_attributes_channels_are_read_and_purified",
        "purify": "tests/test_directions.py::test_an_attributes_channels_are_read_and_purified",
        "keep": "tests/test_directions.py::test_an_attributes_channels_are_read_and_purified",
        "channels": "tests/test_directions.py::test_an_attributes_channels_are_read_and_purified",
    },
    "local_edit": {
        "latent_file": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "scribble": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "base": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "mask": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "invert_mask": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "blur": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "iteration": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "noise_iteration": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "lr": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "lambda_start": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "out": "tests/test_local.py::test_scribble_works_where_the_strokes_are_and_noise_elsewhere",
        "style_im": "tests/test_local.py::test_style_asks_for_texture_inside_and_the_face_outside",
        "lambda_style": "tests/test_local.py::test_style_asks_for_texture_inside_and_the_face_outside",
        "perceptual": "tests/test_local.py::test_style_asks_for_texture_inside_and_the_face_outside",
        "low_memory": "tests/test_local.py::test_style_asks_for_texture_inside_and_the_face_outside",
        "seed": "tests/test_local.py::test_style_asks_for_texture_inside_and_the_face_outside",
        "latent_file1": "tests/test_local.py::test_transfer_changes_the_part_and_hardly_the_rest",
        "latent_file2": "tests/test_local.py::test_transfer_changes_the_part_and_hardly_the_rest",
        "resolutions": "tests/test_local.py::test_transfer_changes_the_part_and_hardly_the_rest",
        "mode": "tests/test_local.py::test_modes_say_how_much",
        "amount": "tests/test_local.py::test_modes_say_how_much",
        "embed": "tests/test_local.py::test_an_embedded_transfer_is_two_results",
        "compile": "tests/test_local.py::test_compile_is_passed_on",
        "no_saved_noise": "tests/test_local.py::test_scribble_keeps_the_noise_it_was_found_under",
        "force": "tests/test_local.py::test_force_takes_another_generators",
    },
    "drag_edit": {
        "latent_file": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "drag": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "points": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "iteration": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "lr": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "layers": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "r1": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "r2": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "animation": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "fps": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "width": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "find": "tests/test_drag.py::test_the_face_is_written_whole_with_its_way",
        "mask": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "invert_mask": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "lambda_mask": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "lambda_start": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "method": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "out": "tests/test_drag.py::test_landmarks_of_a_face_are_dragged",
        "force": "tests/test_drag.py::test_force_takes_another_generators",
    },
    "train_boundary": {
        "latents": "tests/test_boundaries.py::test_from_scores_it_repeats_itself_and_reports",
        "scores": "tests/test_boundaries.py::test_from_scores_it_repeats_itself_and_reports",
        "column": "tests/test_boundaries.py::test_from_scores_it_repeats_itself_and_reports",
        "condition": "tests/test_boundaries.py::test_from_scores_it_repeats_itself_and_reports",
        "out": "tests/test_boundaries.py::test_from_scores_it_repeats_itself_and_reports",
        "ratio": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "split": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "cost": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "per_layer": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "seed": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "quiet": "tests/test_boundaries.py::test_flags_change_the_boundary",
        "faces": "tests/test_directions.py::test_train_boundary_says_what_else_changes",
        "purify": "tests/test_directions.py::test_train_boundary_says_what_else_changes",
        "keep": "tests/test_directions.py::test_train_boundary_says_what_else_changes",
        "channels": "tests/test_directions.py::test_purified_channels_keep_others_to_first_order",
        "positive": "tests/test_boundaries.py::test_from_two_folders",
        "negative": "tests/test_boundaries.py::test_from_two_folders",
        "weight_file": "tests/test_boundaries.py::test_latents_may_be_a_folder_or_flattened",
    },
    "generate": {
        "seeds": "tests/test_generate.py::test_seeds_give_the_faces_that_nvidias_code_gives",
        "trunc": "tests/test_generate.py::test_seeds_give_the_faces_that_nvidias_code_gives",
        "trunc_cutoff": "tests/test_generate.py::test_truncation_may_end_at_a_layer",
        "out_dir": "tests/test_generate.py::test_truncation_may_end_at_a_layer",
        "class": "tests/test_classes.py::test_generate_draws_the_class_and_the_record_says_it",
        "noise_mode": "tests/test_generate.py::test_a_face_renders_to_its_picture_whatever_its_noise",
        "rotate": "tests/test_stylegan3_use.py::test_a_turned_face_is_a_face",
        "translate": "tests/test_stylegan3_use.py::test_a_turned_face_is_a_face",
        "weight_file": "tests/test_generate.py::test_another_generators_faces_are_not_replaced",
    },
    "align_images": {
        "redo": ALIGN,
        "retry": ALIGN,
        "shard": ALIGN,
        "workers": "tests/test_align.py::test_workers_cut_what_one_process_cuts",
        "min_score": "tests/test_align.py::test_min_score_says_what_is_a_face",
        "shape_predictor": "tests/test_align.py::test_senseless_flags",
        "weight_file": "tests/test_align.py::test_faces_are_cut_for_the_generator_that_is_named",
        "raw": "tests/test_align.py::test_a_small_face_and_what_is_left_out_are_said",
        "aligned": "tests/test_align.py::test_a_small_face_and_what_is_left_out_are_said",
        "output_size": "tests/test_align.py::test_a_small_face_and_what_is_left_out_are_said",
        "out": "tests/test_align.py::test_a_small_face_and_what_is_left_out_are_said",
        "face": "tests/test_align.py::test_faces_are_numbered_by_size",
        "quiet": "tests/test_align.py::test_faces_are_numbered_by_size",
        "scale": "tests/test_align.py::test_the_astronaut_has_one_face_and_it_goes_back",
        "upright": "tests/test_align.py::test_squares_that_are_not_turned",
        "em_scale": "tests/test_align.py::test_the_astronaut_has_one_face_and_it_goes_back",
        "landmarks": "tests/test_align.py::test_the_astronaut_has_one_face_and_it_goes_back",
        "quad": "tests/test_align.py::test_the_astronaut_has_one_face_and_it_goes_back",
        "paste_back": "tests/test_align.py::test_another_photograph_of_the_same_size_is_warned_of",
        "onto": "tests/test_align.py::test_another_photograph_of_the_same_size_is_warned_of",
    },
    "make_morphinggif": {
        "frames_dir": "tests/test_animation.py::test_script_takes_frames_in_natural_order",
        "out": "tests/test_animation.py::test_script_takes_frames_in_natural_order",
        "pingpong": "tests/test_animation.py::test_script_takes_frames_in_natural_order",
        "fps": "tests/test_animation.py::test_script_takes_frames_in_natural_order",
        "loop": "tests/test_animation.py::test_the_script_passes_on_how_often_it_plays",
        "width": "tests/test_animation.py::test_width_enlarges_and_keeps_the_shape",
        "quiet": "tests/test_animation.py::test_paths_on_stdout_and_what_they_are_on_stderr",
    },
    "make_report": {
        "folder": "tests/test_report.py::test_edits_stand_beside_their_face_wherever_it_is",
        "out": "tests/test_report.py::test_a_large_report_is_split_and_an_older_longer_one_is_tidied_away",
        "quiet": "tests/test_report.py::test_words_go_to_stderr_and_the_page_to_stdout",
    },
    "weight_convert": {
        "source": "tests/test_convert.py::test_the_same_source_gives_the_same_bytes",
        "out": "tests/test_convert.py::test_lernapparats_file_gives_the_official_images",
        "discriminator": "tests/test_convert.py::test_lernapparats_file_gives_the_official_images",
        "to": "tests/test_export.py::test_there_and_back_is_the_same_file",
        "tuned": "tests/test_export.py::test_a_tuned_face_leaves_with_its_generator",
        "quiet": "tests/test_hostile.py::test_a_checkpoint_that_is_there_is_not_replaced",
    },
}


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
    there, table = flags(parsers(name, monkeypatch)), SEEN.get(name, {})
    unseen = there - SHARED.keys() - table.keys()
    assert not unseen, f"{name}.py: flags without a test: {', '.join(sorted(unseen))}"
    gone = table.keys() - there
    assert not gone, f"{name}.py has no {', '.join(sorted(gone))}"


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
