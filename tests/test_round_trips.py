"""What users do with a run folder: load, save and load again, merge, rename, move, share, make it read-only.

Notes:
- Every load happens in a process that cannot import this project. The run folder's tokenizer has a song template.
- An error while loading a folder becomes that folder's report, so that only the tests of that folder fail.
- What several tests need is made once, even if pytest-xdist spreads them over processes.
"""

import json
import os
import shutil

import pytest
from conftest import PROJECT, isolated
from filelock import FileLock

from tokenization_lyricgpt import LyricGPTTokenizer

TEMPLATE = "{% if title %}{{ title | upper }} by {{ artist }}\n{% endif %}{{ text }}"
TEXT = "I walked along\n<|endoftext|>You  sang ☃"
CODE = {path.name for room in ("modeling", "tokenization") for path in PROJECT.glob(f"{room}_lyricgpt/*_lyricgpt.py")}

# Reports what a folder loads as. The first argument is the module cache, the second a text.
LOOK = """
import json, os, shutil, threading, traceback
from pathlib import Path

os.environ["HF_MODULES_CACHE"] = sys.argv[1]

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
TEXT = sys.argv[2]


def everything(folder):
    classes = (AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer)
    return [each.from_pretrained(folder, trust_remote_code=True) for each in classes]


def told(config, base, model, tokenizer):
    inputs = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        bare = model.lm_head(base(**inputs).last_hidden_state)
    return {
        "classes": [type(each).__name__ for each in (config, base, model, tokenizer)],
        "remote": [type(each).__module__.split(".")[0] for each in (config, base, model, tokenizer)],
        "auto_map": config.auto_map,
        "vocabulary": tokenizer.get_vocab(),
        "special_tokens": tokenizer.special_tokens_map,
        "song": tokenizer.render_song("la", artist="Ann", title="Sea"),
        "prompt": tokenizer.song_prompt("Ann", "Sea"),
        "ids": inputs.input_ids.tolist(),
        "decoded": tokenizer.batch_decode(inputs.input_ids),
        "logits": logits.tolist(),
        "bare_logits": bare.tolist(),
        "generation": {k: v for k, v in model.generation_config.to_dict().items() if k != "transformers_version"},
        "greedy": model.generate(**inputs, do_sample=False, max_new_tokens=20).tolist(),
    }


def look(folder):
    try:
        return told(*everything(folder))
    except Exception:
        return {"error": traceback.format_exc()}
"""


def looked(code, cache, *arguments):
    """Runs `LOOK` and then `code` in a new process, and returns the JSON that it prints."""
    result = isolated(LOOK + code, cache, TEXT, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_same(report, expected):
    assert "error" not in report, report["error"]
    assert report.keys() == expected.keys()
    for name, value in report.items():
        assert value == expected[name], name


def listing(folder):
    """The names, sizes, modes and times in a folder. Any write would change them."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return [(path.name, (stat := path.stat()).st_size, stat.st_mode, stat.st_mtime_ns, stat.st_ino) for path in paths]


@pytest.fixture(scope="module")
def place(request, tmp_path_factory):
    """A folder that contains `songs`: a read-only run folder with a song template."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "round-trips"
    place.mkdir(exist_ok=True)
    with FileLock(place / "songs.lock"):
        if not (place / "songs").exists():
            run = request.getfixturevalue("tiny_run")
            shutil.copytree(run, place / "unfinished", ignore=shutil.ignore_patterns("checkpoints"))
            LyricGPTTokenizer.from_pretrained(run, song_template=TEMPLATE).save_pretrained(place / "unfinished")
            for path in (place / "unfinished").iterdir():
                path.chmod(0o444)
            (place / "unfinished").rename(place / "songs").chmod(0o555)
    return place


def once(place, name, make):
    """The report of `make`, which only the first process calls."""
    report = place / f"{name}.json"
    with FileLock(place / f"{name}.lock"):
        if not report.exists():
            report.write_text(json.dumps(make()))
    return json.loads(report.read_text())


SAVE = """
source, saved = Path(sys.argv[3]), Path(sys.argv[4])
config, base, model, tokenizer = everything(source)
model.save_pretrained(saved / "songs")
tokenizer.save_pretrained(saved / "songs")
config.save_pretrained(saved / "config")
base.save_pretrained(saved / "base")
tokenizer.save_pretrained(saved / "tokenizer")
model.to(torch.bfloat16).save_pretrained(saved / "half")
print(json.dumps(look(source)))
"""


@pytest.fixture(scope="module")
def original(place):
    """What `songs` loads as. The same process also saves it into `saved`, whole and in parts."""

    def make():
        before = listing(place / "songs")
        report = looked(SAVE, place / "cache", place / "songs", place / "saved")
        return report | {"untouched": listing(place / "songs") == before}

    report = once(place, "original", make)
    assert "error" not in report, report["error"]
    return report


LOAD = """
saved = Path(sys.argv[3])
report = {"saved": look(saved / "songs")}
(saved / "songs").rename(saved / "My songs, v1.5 (final)")
report["renamed"] = look(saved / "My songs, v1.5 (final)")
_, _, model, tokenizer = everything(saved / "My songs, v1.5 (final)")
model.save_pretrained(saved / "again")
tokenizer.save_pretrained(saved / "again")
(saved / "My songs, v1.5 (final)").rename(saved / "songs")
try:
    report["alone"] = [
        AutoConfig.from_pretrained(saved / "config", trust_remote_code=True).to_dict(),
        AutoModel.from_pretrained(saved / "base", trust_remote_code=True).config.to_dict(),
        AutoTokenizer.from_pretrained(saved / "tokenizer", trust_remote_code=True)(TEXT).input_ids,
        str(AutoModelForCausalLM.from_pretrained(saved / "half", trust_remote_code=True).dtype),
    ]
except Exception:
    report["alone"] = traceback.format_exc()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def loaded(place, original):
    """What the saved folder loads as in another process, after the module cache was cleared."""

    def make():
        shutil.rmtree(place / "cache")
        return looked(LOAD, place / "cache", place / "saved")

    return once(place, "loaded", make)


@pytest.fixture(scope="module")
def expected(original):
    return {name: value for name, value in original.items() if name != "untouched"}


def test_a_saved_copy_brings_its_code_and_says_where_it_is(place, original):
    saved = place / "saved" / "songs"
    assert {path.name for path in saved.glob("*.py")} == CODE
    for name in CODE:
        assert (saved / name).read_bytes() == (place / "songs" / name).read_bytes()
    assert json.loads((saved / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_lyricgpt.LyricGPTConfig",
        "AutoModel": "modeling_lyricgpt.LyricGPTModel",
        "AutoModelForCausalLM": "modeling_lyricgpt.LyricGPTForCausalLM",
    }
    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert config["auto_map"] == {"AutoTokenizer": ["tokenization_lyricgpt.LyricGPTTokenizer", None]}
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_saved_copy_loads_through_every_auto_class(loaded):
    assert "error" not in loaded["saved"], loaded["saved"]["error"]
    assert loaded["saved"]["classes"] == [
        "LyricGPTConfig",
        "LyricGPTModel",
        "LyricGPTForCausalLM",
        "LyricGPTTokenizer",
    ]
    assert set(loaded["saved"]["remote"]) == {"transformers_modules"}


def test_a_saved_copy_gives_the_same_ids_logits_and_song(loaded, original):
    for name in ("ids", "decoded", "logits", "bare_logits", "greedy"):
        assert loaded["saved"][name] == original[name], name
    assert original["bare_logits"] == original["logits"]
    assert original["decoded"] == [TEXT.replace("☃", "<|unk|>")]


def test_a_saved_copy_keeps_vocabulary_special_tokens_template_and_generation_defaults(loaded, original):
    for name in ("vocabulary", "special_tokens", "song", "prompt", "generation"):
        assert loaded["saved"][name] == original[name], name
    assert original["song"] == "SEA by Ann\nla"
    assert original["prompt"] == "<|endoftext|>SEA by Ann\n"
    assert set(original["special_tokens"].values()) == {"<|endoftext|>", "<|unk|>", "<|pad|>"}
    assert (original["generation"]["do_sample"], original["generation"]["top_k"]) == (True, 0)


def test_a_copy_of_a_copy_is_the_same(place, loaded):
    copy, again = place / "saved" / "songs", place / "saved" / "again"
    assert {path.name for path in copy.iterdir()} == {path.name for path in again.iterdir()}
    for path in copy.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_config_bare_model_tokenizer_and_half_precision_model_load_when_saved_alone(loaded, original):
    assert isinstance(loaded["alone"], list), loaded["alone"]
    config, base, ids, dtype = loaded["alone"]
    assert config["model_type"] == base["model_type"] == "lyricgpt"
    assert config["hidden_size"] == base["hidden_size"] == 32
    assert [ids] == original["ids"]
    assert dtype == "torch.bfloat16"


def test_a_renamed_folder_loads_whatever_its_name(loaded, expected):
    assert_same(loaded["renamed"], expected)


def test_a_cleared_module_cache_fills_again(loaded, expected, place):
    assert_same(loaded["saved"], expected)
    assert {path.name for path in (place / "cache").rglob("*_lyricgpt.py")} == CODE


def test_a_read_only_folder_loads_and_nothing_is_written_to_it(original):
    assert original["untouched"]


MERGE = """
from peft import LoraConfig, get_peft_model

source, merged = Path(sys.argv[3]), Path(sys.argv[4])
config, base, model, tokenizer = everything(source)
wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
torch.manual_seed(0)
with torch.no_grad():
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.normal_(std=0.3)
    adapted = wrapped.eval()(**tokenizer(TEXT, return_tensors="pt")).logits.tolist()
model = wrapped.merge_and_unload()
model.save_pretrained(merged)
tokenizer.save_pretrained(merged)
print(json.dumps(told(config, model.model, model, tokenizer) | {"adapted": adapted}))
"""


@pytest.mark.slow
def test_weights_merged_with_lora_are_a_model_like_any_other(place, tmp_path):
    folder = tmp_path / "merged"
    merged = looked(MERGE, tmp_path / "cache", place / "songs", folder)
    adapted = merged.pop("adapted")
    assert {path.name for path in folder.iterdir()} == {
        *CODE,
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    loaded = looked(
        "print(json.dumps([look(sys.argv[3]), look(sys.argv[4])]))", tmp_path / "other", folder, place / "songs"
    )
    assert_same(loaded[0], merged)
    assert loaded[0]["ids"] == loaded[1]["ids"]
    assert loaded[0]["logits"][0][0] == pytest.approx(adapted[0][0], abs=1e-4)
    assert loaded[0]["logits"][0][0] != pytest.approx(loaded[1]["logits"][0][0], abs=1e-2)


THREADS = """
barrier, reports = threading.Barrier(2), [None, None]


def load(index):
    try:
        barrier.wait()
        reports[index] = everything(sys.argv[3])
    except Exception:
        reports[index] = traceback.format_exc()


assert not Path(sys.argv[1]).exists()
threads = [threading.Thread(target=load, args=(index,)) for index in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([told(*report) if isinstance(report, list) else {"error": report} for report in reports]))
"""


def test_two_threads_can_load_a_model_at_once_into_an_empty_module_cache(place, tmp_path):
    first, second = looked(THREADS, tmp_path / "cache", place / "songs")
    assert "error" not in first, first["error"]
    assert_same(second, first)
    assert first["classes"][2] == "LyricGPTForCausalLM"


TEXTS = ["I walked\r\nalong ", "You", "  sang <|endoftext|>☃ é"]

# Reports what the tokenizer does with its own code and without it.
TOKENIZERS = """
import json, os

os.environ["HF_MODULES_CACHE"] = sys.argv[1]

from transformers import AutoTokenizer

TEXTS = json.loads(sys.argv[3])


def told(**options):
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], **options)
    cut = {"truncation": True, "max_length": 5}
    report = {
        "ids": tokenizer(TEXTS).input_ids,
        "split": tokenizer(TEXTS, split_special_tokens=True).input_ids,
        "offsets": tokenizer(TEXTS, return_offsets_mapping=True).offset_mapping,
        "decoded": tokenizer.batch_decode(tokenizer(TEXTS).input_ids),
        "skipped": tokenizer.batch_decode(tokenizer(TEXTS).input_ids, skip_special_tokens=True),
        "tokens": [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(TEXTS).input_ids],
        "default": dict(tokenizer(TEXTS, padding=True)),
        "length": len(tokenizer),
    }
    for side in ("left", "right"):
        report["padded " + side] = dict(tokenizer(TEXTS, padding=True, padding_side=side, pad_to_multiple_of=8))
        tokenizer.truncation_side = side
        report["cut " + side] = tokenizer(TEXTS, return_offsets_mapping=True, **cut)["offset_mapping"]
    return type(tokenizer).__name__, report


print(json.dumps([told(trust_remote_code=True), told(trust_remote_code=False)]))
"""


@pytest.fixture(scope="module")
def tokenizers(place):
    def make():
        result = isolated(TOKENIZERS, place / "tokenizers", place / "songs", json.dumps(TEXTS))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    (ours, with_code), (stock, without_code) = once(place, "tokenizers", make)
    assert ours == "LyricGPTTokenizer" != stock
    return with_code, without_code


def test_the_tokenizer_does_the_same_with_and_without_its_code(tokenizers):
    with_code, without_code = tokenizers
    assert with_code.keys() == without_code.keys()
    for name, value in with_code.items():
        assert value == without_code[name], name
    assert [len(ids) for ids in with_code["ids"]] == [16, 3, 11]
    assert [len(ids) for ids in with_code["split"]] == [16, 3, 23]


def test_offsets_point_at_each_character_and_span_a_special_token(tokenizers):
    offsets = tokenizers[0]["offsets"]
    assert offsets[0] == [[index, index + 1] for index in range(16)]
    spans = [TEXTS[2][start:end] for start, end in offsets[2]]
    assert spans == [*"  sang ", "<|endoftext|>", *"☃ é"]


def test_batch_decode_gives_the_texts_back(tokenizers):
    report = tokenizers[0]
    unknown = [ids.count(1) for ids in report["ids"]]
    assert unknown[1:] == [0, 2]
    assert report["decoded"][1:] == [TEXTS[1], TEXTS[2].replace("☃", "<|unk|>").replace("é", "<|unk|>")]
    assert report["skipped"][1:] == [TEXTS[1], "  sang  "]


def test_padding_and_truncation_work_on_both_sides(tokenizers):
    report = tokenizers[0]
    left, right = report["padded left"], report["padded right"]
    for index, ids in enumerate(report["ids"]):
        missing = 16 - len(ids)
        assert left["input_ids"][index] == [2] * missing + ids
        assert left["attention_mask"][index] == [0] * missing + [1] * len(ids)
        assert right["input_ids"][index] == ids + [2] * missing
        assert right["attention_mask"][index] == [1] * len(ids) + [0] * missing
    assert report["default"]["input_ids"] == left["input_ids"]  # where generation wants it
    assert report["cut right"] == [offsets[:5] for offsets in report["offsets"]]
    assert report["cut left"] == [offsets[-5:] for offsets in report["offsets"]]
