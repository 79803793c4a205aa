"""Each row of the table in docs/models-howto.md, of what is accepted and what is refused, is shown by a test."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

SECTION = (ROOT / "docs/models-howto.md").read_text().split("## What is accepted, and what is refused\n")[1]
FOLDER = ROOT / "tests/unit/models"
# The first cell of a row → the test of it: its file below tests/unit/models, and its name.
ROWS = {
    "a folder with spaces, accents or another script in its name": (
        "files/test_leniency.py", "test_a_folder_of_any_name_is_read"),
    "several folders whose names come out alike": (
        "test_catalogue.py", "test_folders_that_would_have_one_name_are_all_served_each_under_a_name_of_its_own"),
    "links, as in the cache of the hub; a folder that is read-only": (
        "files/test_leniency.py", "test_a_snapshot_of_links_in_a_read_only_folder_is_read"),
    "`._*`, `.DS_Store`, `.git`, `.cache`, `Thumbs.db`, `__MACOSX`": (
        "files/test_leniency.py", "test_what_file_managers_leave_behind_is_ignored_everywhere"),
    '`[null, "Class"]`, plain values and unknown keys in `model_index.json`': (
        "files/test_leniency.py", "test_entries_that_diffusers_reads_or_ignores_are_accepted"),
    "`CLIPFeatureExtractor`, `T5TokenizerFast` and other old names": (
        "loading/test_component_classes.py",
        "test_a_feature_extractor_of_older_checkpoints_is_todays_image_processor"),
    "an optional component that is null or not listed": (
        "files/test_completeness.py", "test_components_that_the_library_does_without_are_not_missing"),
    "NaN and doubled keys in a config": ("files/test_leniency.py", "test_json_is_read_as_the_libraries_read_it"),
    "a config that no library opens and that is no JSON": (
        "files/test_leniency.py", "test_a_stray_config_that_no_library_opens_does_not_refuse_a_model"),
    "a whole file beside an index of shards, for transformers": (
        "files/test_leniency.py", "test_transformers_takes_a_whole_file_before_a_stale_index"),
    "some components only as a variant (`fp16`)": (
        "files/test_leniency.py", "test_each_component_may_have_its_weights_under_another_variant"),
    "pickles beside safetensors": ("files/test_safety.py", "test_a_pickle_beside_safetensors_does_no_harm"),
    "a language model packed as `fp8` or `mxfp4`": (
        "test_required_packages.py", "test_methods_that_the_library_unpacks_itself_are_served"),
    "tied weights that the files hold once": ("loading/test_read_check.py", "test_tied_weights_may_be_absent"),
    "tensors of a part that the pipeline does not read": (
        "loading/test_read_check.py", "test_parts_of_a_larger_model_are_left_out_by_name"),
    "markers of v-prediction and zero terminal SNR in a single file": (
        "checkpoint/test_prediction.py", "test_what_the_file_says_replaces_what_its_base_says"),
    "scaled fp8 weights in a single file (`scale_weight`, `weight_scale`)": (
        "checkpoint/test_weight_scales.py", "test_each_scaled_weight_has_its_scale"),
    "a VAE in one file, as `load.vae`": (
        "loading/test_what_files_say.py", "test_a_vae_in_one_file_has_the_scaling_factor_of_the_checkpoint"),
    "a GGUF with tensors of five dimensions, or stored in another shape": (
        "loading/test_what_files_say.py",
        "test_a_gguf_with_a_tensor_of_five_dimensions_makes_the_clip_of_its_pipeline"),
    "an averaged copy of the weights (EMA) beside them": (
        "checkpoint/test_single_file.py", "test_ema_copies_beside_the_weights_are_told_and_not_used"),
    "sampling settings in `generation_config.json` or a GGUF": (
        "checkpoint/test_chat_checkpoint.py",
        "test_the_makers_sampling_is_the_default_and_its_origin_is_the_checkpoint"),
    "several chat templates by name": (
        "loading/test_tokenizer.py", "test_the_default_of_several_templates_is_used"),
    "a folder, weights, shard, config or vocabulary that is not there": (
        "files/test_completeness.py", "test_a_pipeline_that_lacks_a_part_is_incomplete_and_names_it"),
    "a file that ends early, or that a download still writes": (
        "files/test_completeness.py", "test_a_file_that_ends_early_is_incomplete"),
    "a link to a file that is not there": (
        "files/test_completeness.py",
        "test_a_single_file_that_is_being_written_or_whose_link_leads_nowhere_is_incomplete"),
    "a component that the pipeline needs and its index does not list": (
        "files/test_completeness.py", "test_an_index_that_leaves_out_a_component_that_the_class_needs_is_refused"),
    'an entry that is null, `["library", null]` or no pair': (
        "files/test_leniency.py", "test_entries_that_diffusers_fails_at_are_refused"),
    "a whole file beside an index whose shards are missing, for diffusers": (
        "files/test_leniency.py", "test_diffusers_takes_an_index_before_a_whole_file_and_needs_its_shards"),
    "a byte order mark, comments or UTF-16 in a config": (
        "files/test_leniency.py", "test_json_is_read_as_the_libraries_read_it"),
    "a scheduler, tokenizer or processor whose package is not installed": (
        "test_required_packages.py", "test_a_scheduler_that_needs_a_package_is_refused_by_its_name"),
    "weights quantized by a method whose package is not installed": (
        "test_required_packages.py", "test_a_quantized_denoiser_names_the_package_of_its_method"),
    "weights quantized by a method that needs CUDA, on a CPU": (
        "test_required_packages.py", "test_a_method_that_needs_cuda_is_refused_on_a_cpu_and_served_on_a_gpu"),
    "a class that the installed libraries do not have": (
        "loading/test_component_classes.py", "test_a_class_that_the_libraries_no_longer_have_is_refused"),
    "a tensor that is missing, has no place, or has another shape than the config says": (
        "loading/test_read_check.py", "test_a_component_that_lacks_one_tensor_is_refused_by_its_name"),
    "a vocabulary, or a mark of each prompt, beyond the embeddings of a text encoder": (
        "loading/test_vocabulary_check.py",
        "test_a_pipeline_whose_vocabulary_is_larger_than_the_embeddings_is_refused"),
    "a config that asks for more than 4096 layers": (
        "files/test_safety.py", "test_a_config_that_asks_for_a_trillion_layers_is_refused"),
    "weights packed in another way, or a GGUF of a type that diffusers does not unpack": (
        "checkpoint/test_weight_scales.py", "test_another_packing_is_refused_by_its_name"),
    "a denoiser that takes more than latents (inpainting, depth)": (
        "checkpoint/test_denoiser_input.py", "test_a_denoiser_with_more_channels_is_refused_with_what_it_is_for"),
    "a single file with a base of another family or size": (
        "checkpoint/test_single_file.py",
        "test_a_file_is_refused_with_a_base_of_another_family_or_one_that_lacks_weights"),
    "one component, a LoRA or an embedding in the place of a model": (
        "test_check.py", "test_a_file_that_is_no_model_is_told_what_it_is"),
    "`adapter_config.json` in a model's folder": (
        "files/test_leniency.py", "test_a_folder_that_redirects_to_another_model_is_refused"),
    "weights only as pickle, whatever their file is called": (
        "files/test_safety.py", "test_a_pickle_called_safetensors_is_refused_and_never_run"),
    "code: `auto_map`, a pipeline or component of its own, a `.py` file beside a component": (
        "files/test_safety.py", "test_a_config_that_asks_to_run_code_is_refused"),
    "names that lead out of their folder": (
        "files/test_weight_files.py", "test_an_index_may_not_point_outside_its_folder"),
    "a header that does not match its file": (
        "test_hostile_files.py", "test_a_hostile_checkpoint_is_refused_quickly_and_a_sound_one_next_to_it_is_served"),
    "a language model without a chat template": (
        "checkpoint/test_chat_checkpoint.py",
        "test_a_language_model_without_a_chat_template_is_refused_with_what_to_set"),
    "a chat template that takes more than two seconds": (
        "test_hostile_files.py", "test_a_hostile_checkpoint_is_refused_quickly_and_a_sound_one_next_to_it_is_served"),
    "numbers that are not finite, or a picture of one colour, in the first trial step": (
        "loading/test_smoke.py", "test_a_sound_model_is_tested_once_and_one_with_nan_weights_fails"),
}  # fmt: skip


def test_the_rows_of_the_table_are_those_that_have_a_test() -> None:
    rows = re.findall(r"^\| (.+?) \| ", SECTION, re.MULTILINE)

    assert rows[1:] == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_test_of_a_row_exists(row: str) -> None:
    file, name = ROWS[row]

    assert re.search(rf"^(async )?def {name}\(", (FOLDER / file).read_text(), re.MULTILINE)
