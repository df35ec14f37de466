"""A published model writes the right song with every release of transformers tried, or says in one line that it can't.

`release_probe.py` tries a bare copy of a run folder in a process without this project: see `releases.py`.
"""

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest
import releases
import torch
from conftest import PROJECT
from releases import PINNED, VARIANTS, bare_copy, install, probe, request, right, wrong
from safetensors.torch import load_file

from modeling_lyricgpt import LyricGPTForCausalLM

RELEASES = PROJECT / ".venv" / "releases"
INSTALLED = "-"

# What the next release may rename: today's name (a regular expression), the new name, and the files of transformers.
KEYWORDS = [
    (r"cache(?! import)", "kv_store", "generation/utils|modeling_outputs|masking_utils|utils/generic"),
    ("inputs_embeds", "embedded", "masking_utils|generation/"),
    ("next_sequence_length", "fresh", ""),
    ("is_first_iteration", "initial", ""),
    ("attention_mask", "seen", "generation/"),
    ("position_ids", "places", "generation/"),
    ("logits_to_keep", "kept", "generation/"),
    ("generation_config", "settings", "generation/"),
    ("model_kwargs", "step", "generation/"),
    ("logits_processor", "processors", "generation/"),
    ("stopping_criteria", "ends", "generation/utils"),
    ("max_cache_length", "capacity", "generation/utils"),
]
METHODS = [
    ("_sample", "_draw", "generation/"),
    ("_prepare_cache_for_generation", "_make_cache", ""),
    ("_get_stopping_criteria", "_find_criteria", ""),
    ("_get_candidate_generator", "_find_drafts", ""),
    ("prepare_inputs_for_generation", "prepare_step", ""),
    ("_can_set_attn_implementation", "_has_attn_implementations", ""),
    ("_pad_token_tensor", "_padding", ""),
    ("get_seq_length", "length_seen", ""),
    ("post_init", "finish", ""),
    ("is_assistant", "assists", ""),
    ("prefill_chunk_size", "chunk", ""),
    ("reset", "clear", "cache_utils"),
    ("crop", "take_back", ""),
]
HELPERS = [
    ("capture_outputs", "collect_outputs", ""),
    ("create_causal_mask", "causal_mask", ""),
    ("ACT2FN", "ACTIVATIONS", ""),
    ("TransformersKwargs", "Keywords", ""),
    ("DynamicCache", "GrowingCache", ""),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "CAUSAL_LM_NAMES", ""),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Bare copies of a run folder of each variant."""
    folder = tmp_path_factory.mktemp("published")
    return {variant: bare_copy(variant, folder / variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def expected(published):
    """Their right logits and songs."""
    return {variant: right(folder) for variant, folder in published.items()}


def ask(published, release, **values):
    """The probe's answers about both variants, which run at the same time."""
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda variant: probe(release, request(published[variant], **values)), VARIANTS)
        return dict(zip(VARIANTS, answers, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("release", PINNED)
def test_a_run_folder_writes_the_right_song_with_this_release(release, published, expected):
    for variant, found in ask(published, install(release, RELEASES)).items():
        assert wrong(found, expected[variant]) == [], variant
        assert found["version"] == release
        assert found["own_loop"]


@pytest.fixture(scope="module")
def short(published):
    """The right answers for shorter songs, which still go past the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(releases, "LENGTH", 70)
        patch.setattr(releases, "BEAMS", 40)
        return {variant: right(folder) for variant, folder in published.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rename", [*KEYWORDS, *METHODS, *HELPERS], ids=lambda rename: rename[1])
def test_a_release_that_renames_something_gives_the_right_song_or_says_that_it_cannot(rename, published, short):
    for variant, found in ask(published, INSTALLED, rename=rename, length=70, beams=40).items():
        problems = wrong(found, short[variant])
        said = (
            "error" in found and "(this is transformers " in found["error"] and "Install one of those" in found["error"]
        )
        assert said or problems == [], f"{variant}: {found.get('traceback', problems)}"


@pytest.mark.slow
def test_a_release_that_is_too_old_gives_an_error_that_says_which_is_needed(published):
    for found in ask(published, install("4.40.2", RELEASES)).values():
        assert found["error"].startswith(
            "ImportError: LyricGPT needs transformers 4.57.6 or newer (this is transformers 4.40.2"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_saved_with_older_code_load_and_write_the_same_song(variant, tmp_path):
    """The logits were recorded together with the fixture, and neither has changed since."""
    folder = releases.FIXTURES / variant
    model = LyricGPTForCausalLM.from_pretrained(folder).eval()
    expected = load_file(folder / "logits.safetensors")
    with torch.no_grad():
        logits = model(expected["input_ids"]).logits
    assert (logits - expected["logits"]).abs().max() < 1e-5 * expected["logits"].abs().max()


def test_the_model_file_imports_every_sibling_itself():
    """Older releases copy the files that the named file imports, but not those that these import in turn."""
    package = PROJECT / "modeling_lyricgpt"
    tree = ast.parse((package / "modeling_lyricgpt.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert imported == {path.stem for path in package.glob("*_lyricgpt.py")} - {"modeling_lyricgpt"}
    tree = ast.parse((package / "configuration_lyricgpt.py").read_text())
    (sibling,) = (node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level)
    tree = ast.parse((package / f"{sibling}.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
