"""Users' mistakes: each gives one message that says what is wrong and what to do. No traceback, and nothing is lost."""

import json
import shutil
import sys

import pytest
from conftest import python, run, train, write_songs


def assert_refused(result, *parts):
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    for part in parts:
        assert part in message, message


@pytest.fixture
def corpus(tmp_path):
    def make(content, name="songs.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_no_such_file(tmp_path):
    assert_refused(train(dataset=tmp_path / "songs.csv"), "no such file", str(tmp_path / "songs.csv"))


def test_a_directory(tmp_path):
    assert_refused(train(dataset=tmp_path), f"{tmp_path} is a directory", str(tmp_path / "*.csv"))


def test_a_glob_that_matches_nothing(tmp_path):
    assert_refused(train(dataset=tmp_path / "*.csv"), "no file matches", "*.csv")


def test_a_table_without_the_text_column_lists_the_columns_it_has(corpus):
    path = corpus("artist,song,words\na,b,c\n")
    assert_refused(train(dataset=path), "no column called text, lyrics", "'artist', 'song', 'words'", "--text_column")
    assert_refused(train(dataset=path, text_column="lyrics"), "no column 'lyrics'", "'artist', 'song', 'words'")


def test_an_empty_file(corpus):
    assert_refused(train(dataset=corpus("")), "songs.csv is empty")


def test_a_header_only(corpus):
    assert_refused(train(dataset=corpus("artist,song,link,text\n")), "has a header but no rows")


def test_rows_that_are_all_empty(corpus):
    assert_refused(train(dataset=corpus("artist,text\na,\nb,\nc,NaN\n")), "all 3 rows are empty")


def test_text_in_another_encoding_names_the_byte_its_position_and_a_remedy(corpus):
    path = corpus(b"text\n" + b"la la la\n" * 50 + b"caf\xe9\n")
    assert_refused(train(dataset=path), "is not utf-8: byte 0xe9 at position 458 (line 52)", "--encoding latin-1")


def test_an_unknown_encoding(corpus):
    assert_refused(train(dataset=corpus("text\nla\n"), encoding="utf-9"), "unknown encoding 'utf-9'")


def test_an_ending_that_is_not_known(corpus):
    assert_refused(train(dataset=corpus("la", "songs.docx")), "'.docx'", ".csv", ".txt")


def test_a_corpus_shorter_than_a_window(corpus):
    result = train(dataset=corpus("la la la", "songs.txt"), split="characters")
    assert_refused(result, "the train split has", "block_size + 1 = 33")


def test_a_validation_split_shorter_than_a_window(tmp_path, make_songs):
    path = write_songs(tmp_path / "songs.csv", make_songs(10, lines=1))
    result = train(dataset=path, block_size=100)
    assert_refused(result, "the validation split has", "block_size + 1 = 101", "validation_fraction")


def test_an_unknown_key():
    assert_refused(train(max_step=3), "unknown setting 'max_step'", "did you mean 'max_steps'")


def test_a_value_of_the_wrong_type():
    assert_refused(train(max_steps="many"), "max_steps is 'many'; it must be a whole number")


def test_a_width_that_the_heads_do_not_divide():
    assert_refused(train(hidden_size=33), "hidden_size 33 is not divisible by num_attention_heads 2")


def test_a_batch_that_cannot_be_divided_evenly(tmp_path):
    result = train(gradient_accumulation_steps=3, output_dir=tmp_path / "run")
    assert_refused(result, "batch_size 8 is not divisible by 1 process x 3 gradient_accumulation_steps")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_run_is_left_alone_and_the_differences_are_listed(tiny_run):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    result = train(output_dir=tiny_run, hidden_size=64, seed=3)
    assert_refused(result, "contains another run", "hidden_size: 32 in the run, 64 now", "seed: 1337 in the run, 3 now")
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_a_folder_that_holds_a_run_on_another_corpus(tiny_run, tmp_path, make_songs):
    result = train(output_dir=tiny_run, dataset=write_songs(tmp_path / "other.csv", make_songs(40)))
    assert_refused(result, "contains another run", "corpus: checksum")


def test_resume_never_refuses_a_folder_that_holds_a_run(tiny_run):
    assert_refused(train(output_dir=tiny_run, resume="never"), "contains a run, and resume is 'never'")


def test_a_folder_with_files_that_are_not_a_run(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert_refused(train(output_dir=tmp_path), "is not empty and contains no run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_some_empty_rows_are_skipped_and_counted(tmp_path, make_songs):
    path = write_songs(tmp_path / "songs.csv", [*make_songs(30), "", "NaN", "  "])
    result = train(dataset=path, output_dir=tmp_path / "run", max_steps=2)
    assert result.returncode == 0, result.stderr
    assert "30 songs from songs.csv, 3 empty rows skipped" in result.stdout


def sample(*arguments):
    return python("-m", "training_lyricgpt.sample", *arguments)


def test_unknown_characters_in_a_prompt_are_named_and_a_song_is_written(tiny_run):
    result = sample(tiny_run, "--prompt", "Caf\u00e9 \u6f22", "--max_new_tokens", "20")
    assert result.returncode == 0, result.stderr
    assert "'é' (U+00E9), '漢' (U+6F22) aren't in the model's alphabet; each is replaced by <|unk|>" in result.stderr
    assert result.stdout.startswith("Café 漢")


def test_unknown_characters_in_a_prompt_are_an_error_without_unk(tmp_path):
    result = train(output_dir=tmp_path / "run", special_tokens="false", alphabet="corpus", max_steps=2)
    assert result.returncode == 0, result.stderr
    assert_refused(sample(tmp_path / "run", "--prompt", "Café"), "'é' (U+00E9)", "special_tokens set to true")
    known = sample(tmp_path / "run", "--prompt", "The sea", "--max_new_tokens", "10")
    assert known.returncode == 0, known.stderr
    assert known.stdout.startswith("The sea")


def test_a_sample_prompt_with_unknown_characters_is_refused_before_training(tmp_path):
    options = {"special_tokens": "false", "alphabet": "corpus", "output_dir": tmp_path / "run"}
    assert_refused(train(**options, sample_prompt="Café"), "prompt: ", "'é' (U+00E9)")
    assert not (tmp_path / "run").exists()


def test_unknown_validation_characters_without_unk_are_refused_with_a_remedy(tmp_path, make_songs):
    path = write_songs(tmp_path / "songs.csv", make_songs(10))
    held_out = write_songs(tmp_path / "held_out.csv", ["☃ " * 60])
    result = train(dataset=path, validation_file=held_out, special_tokens="false", output_dir=tmp_path / "run")
    assert_refused(result, "'☃' (U+2603)", "set alphabet to corpus")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0}, "learning_rate is 0.0"),
        ({"learning_rate": "nan"}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": 1}, "sliding_window is 1; it must be from 2 to"),
        ({"block_size": 1}, "block_size is 1; it must be from 2 to"),
        ({"sliding_window": 64}, "sliding_window 64 is larger than block_size 32"),
        ({"hidden_size": 30}, "rotary positions need an even number; choose a hidden_size that is a multiple of 4"),
        ({"beta2": 1}, "beta2 is 1.0"),
        ({"dropout": 1}, "dropout is 1.0"),
        ({"mixed_precision": "fp16"}, "but this run has no GPU"),
        ({"tracker": "wandb"}, "pip install wandb"),
    ],
    ids=lambda value: "-".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_values_with_which_no_run_is_possible(tmp_path, values, message):
    assert_refused(train(**values, output_dir=tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_a_run_without_its_checkpoints_does_not_start_again_and_overwrite_its_model(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    shutil.rmtree(folder / "checkpoints")
    weights = (folder / "model.safetensors").read_bytes()
    assert_refused(
        train(output_dir=folder, max_steps=40), "none of its checkpoints can be read", "another --output_dir"
    )
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_run_whose_metrics_are_gone_or_damaged_does_not_resume(tiny_run, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    record = folder / "metrics.jsonl"
    if damage == "remove":
        record.unlink()
    else:
        record.write_bytes(record.read_bytes()[5:])
    assert_refused(train(output_dir=folder, max_steps=40), "metrics.jsonl", "restore it")


def test_a_run_that_never_got_past_step_0_gives_its_folder_to_another(tmp_path):
    result = train(output_dir=tmp_path / "run", max_steps=1, save_interval=1)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    record = tmp_path / "run" / "metrics.jsonl"
    record.write_text(record.read_text().splitlines()[0] + "\n")
    assert train(output_dir=tmp_path / "run", hidden_size=64, max_steps=2).returncode == 0


@pytest.mark.parametrize(
    ("file", "field", "value"), [("config.json", "num_hidden_layers", 1), ("config.json", "hidden_size", 48)]
)
def test_a_run_whose_configuration_was_edited_writes_no_wrong_song(tiny_run, tmp_path, file, field, value):
    shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / file).read_text()) | {field: value}
    config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    (tmp_path / "run" / file).write_text(json.dumps(config))
    assert_refused(sample(tmp_path / "run"), str(tmp_path / "run"))


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    from training_lyricgpt.files import lock_folder

    with lock_folder(tmp_path / "run"):
        assert_refused(train(output_dir=tmp_path / "run"), "another process is training in")


def test_a_run_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(train(output_dir=tmp_path / "file" / "run"), "cannot be written", "same command again")


def test_sampling_from_a_folder_without_a_model(tmp_path):
    assert_refused(sample(tmp_path), "contains no model")


def test_a_corpus_with_a_single_song_is_named(corpus):
    result = train(dataset=corpus("text\nla la la\n"))
    assert_refused(result, "songs.csv has only one song", "Set split to characters")


def test_sampling_from_something_that_does_not_exist():
    assert_refused(sample("somebody/nowhere"), "no model could be loaded from 'somebody/nowhere'")


def test_evaluating_a_folder_without_a_run(tmp_path):
    assert_refused(train("--eval_only", output_dir=tmp_path / "run"), "holds no run to evaluate")
    assert not (tmp_path / "run").exists()


def test_errors_under_accelerate_launch_are_printed_once_and_without_a_traceback(tmp_path):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        "configs/accelerate/cpu.yaml",
    ]
    result = run([*launch, "train_hf.py", f"--dataset={tmp_path / 'no.csv'}"])
    assert_refused(result, "no such file")
