"""Run configuration: a YAML file that the command line overrides. Nothing is ignored."""

import pytest
import yaml
from conftest import PROJECT

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import describe_differences, load_arguments, parse_arguments

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return f"--config={path}"

    return write


def test_the_command_line_overrides_the_file_and_the_file_overrides_the_defaults(config):
    args = parse_arguments([config("dataset: a.csv\nmax_steps: 10\nbatch_size: 8"), "--max_steps", "20"])
    assert (args.dataset, args.max_steps, args.batch_size, args.block_size) == ("a.csv", 20, 8, 256)


def test_a_license_in_the_file_applies_only_to_the_dataset_in_the_file(config, tmp_path):
    file = config(f"dataset: {tmp_path}/a.csv\ndata_license: cc0-1.0")
    assert parse_arguments([file]).data_license == "cc0-1.0"
    assert parse_arguments([file, f"--dataset={tmp_path}/x/../a.csv"]).data_license == "cc0-1.0"
    assert parse_arguments([file, "--dataset=b.csv"]).data_license is None
    assert parse_arguments([file, "--dataset=b.csv", "--data_license=mit"]).data_license == "mit"


def test_a_number_in_scientific_notation_is_a_number(config):
    assert parse_arguments([config("dataset: a.csv\nlearning_rate: 3e-4")]).learning_rate == 3e-4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_in_configs_is_valid(path):
    args = parse_arguments([f"--config={path}"])
    assert args.output_dir == f"runs/{path.stem}"


def test_the_default_configuration_is_the_sample():
    assert (
        parse_arguments([]).to_dict() == parse_arguments([f"--config={PROJECT / 'configs' / 'sample.yaml'}"]).to_dict()
    )


def test_spotify_is_the_published_recipe():
    args = parse_arguments([f"--config={PROJECT / 'configs' / 'spotify.yaml'}"])
    published = {
        "variant": "classic", "block_size": 256, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
        "dropout": 0.2, "batch_size": 64, "max_steps": 6000, "optimizer": "adamw", "learning_rate": 3e-4,
        "lr_schedule": "constant", "warmup_steps": 0, "max_grad_norm": 0, "eval_interval": 500, "eval_batches": 200,
        "cleaning": "none", "split": "characters", "split_seed": 42, "alphabet": "corpus", "special_tokens": False,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in published} == published


def test_spotify_modern_trains_on_the_same_data_and_as_many_characters_as_spotify():
    classic, modern = (
        parse_arguments([f"--config={PROJECT / 'configs' / name}"]).to_dict()
        for name in ("spotify.yaml", "spotify_modern.yaml")
    )
    data = ("dataset", "cleaning", "split", "split_seed", "validation_fraction", "alphabet", "special_tokens")
    same = (*data, "block_size", "batch_size", "max_steps", "eval_interval")
    assert {name: classic[name] for name in same} == {name: modern[name] for name in same}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: a.csv\nmax_step: 10", "unknown setting 'max_step' .* did you mean 'max_steps'"),
        ("dataset: a.csv\nmax_steps: ten", r"^\S*\.yaml: max_steps is 'ten'; it must be a whole number$"),
        ("dataset: a.csv\nmax_steps: 1.5", "max_steps is '1.5'; it must be a whole number"),
        ("dataset: a.csv\ncompile: perhaps", r"\.yaml: compile is 'perhaps'; it must be yes or no$"),
        ("dataset: a.csv\nbatch_size: [1, 2]", "batch_size is a list, but a setting must be a single value"),
        ("dataset: a.csv\nvariant: baroque", r"^\S*\.yaml: variant is 'baroque'; choose one of 'classic', 'modern'$"),
        ("dataset: a.csv\nlearning_rate:", r"\.yaml: learning_rate is empty; give it a value"),
        ("dataset: a.csv\nhidden_size: 100", "hidden_size 100 is not divisible by num_attention_heads 6; .* 96"),
        ("dataset: a.csv\nbatch_size: 0", r"^\S*\.yaml: batch_size is 0; it must be from 1 to "),
        ("dataset: a.csv\nvalidation_fraction: 1.5", "validation_fraction is 1.5"),
        ("max_steps: 10", "no songs to train on"),
        ("- a\n- b", "holds a list"),
        ("a: 1\nb: [", r"\.yaml, line 2 is not valid YAML \(.*\); write one setting per line"),
    ],
)
def test_a_bad_configuration_is_refused_and_says_what_is_wrong(config, text, message):
    with pytest.raises(LyricGPTError, match=message):
        parse_arguments([config(text)])


def test_an_unknown_option_is_refused_with_the_nearest_known_one(config):
    with pytest.raises(LyricGPTError, match="'learning-rat' on the command line; did you mean 'learning_rate'"):
        parse_arguments([config("dataset: a.csv"), "--learning-rat=1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps=foo"], r"^--max_steps is 'foo'; it must be a whole number$"),
        (["--variant=baroque"], r"^--variant is 'baroque'; choose one of "),
        (["--batch_size=0"], r"^--batch_size is 0; it must be from 1 to "),
        (
            ["--num_attention_heads=3"],
            r"^hidden_size 128 .* by --num_attention_heads 3; .* hidden_size that works is 126$",
        ),
        (["--hidden_size=127"], r"^--hidden_size 127 .* by num_attention_heads 4; .* that works is 128$"),
        (["--sliding_window=1"], r"^--sliding_window is 1; it must be from 2 to "),
        (["--block_size=1"], r"^--block_size is 1; it must be from 2 to "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_error_marks_the_settings_that_come_from_the_command_line(config, options, message):
    with pytest.raises(LyricGPTError, match=message):
        parse_arguments([config("dataset: a.csv\nhidden_size: 128\nnum_attention_heads: 4"), *options])


def test_an_error_names_the_file_only_if_all_settings_in_it_come_from_there(config):
    with pytest.raises(LyricGPTError, match=r"^\S*\.yaml: hidden_size 100 is not divisible by num_attention_heads 8"):
        parse_arguments([config("dataset: a.csv\nhidden_size: 100\nnum_attention_heads: 8")])


def test_the_size_that_an_error_suggests_works(config):
    file = config("dataset: a.csv\nhidden_size: 128")
    parse_arguments([file, "--num_attention_heads=3", "--hidden_size=126"])
    with pytest.raises(LyricGPTError, match=r"the nearest hidden_size that works is 129$"):
        parse_arguments([file, "--num_attention_heads=3", "--variant=classic"])


def test_a_file_without_an_option_is_taken_for_the_dataset(config):
    file = config("max_steps: 3")
    with pytest.raises(LyricGPTError, match=r"'my songs\.csv' .* did you mean --dataset 'my songs\.csv'\?"):
        parse_arguments([file, "my songs.csv"])
    with pytest.raises(LyricGPTError, match=r"'b\.csv' on the command line is not a setting; .*'lyrics/\*\.csv'"):
        parse_arguments([file, "--dataset", "a.csv", "b.csv"])


def test_an_unknown_option_that_is_like_no_other_says_what_lists_all(config):
    with pytest.raises(LyricGPTError, match="; --help lists all settings"):
        parse_arguments([config("dataset: a.csv"), "--zzzzzzzz=1"])


def test_a_wrong_value_in_a_saved_configuration_names_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: a.csv\nmax_steps: 0")
    with pytest.raises(LyricGPTError, match=r"run\.yaml: max_steps is 0"):
        load_arguments(tmp_path / "run.yaml")


def test_a_missing_configuration_file_is_named():
    with pytest.raises(LyricGPTError, match=r"no configuration file at nowhere\.yaml"):
        parse_arguments(["--config=nowhere.yaml"])


def test_a_saved_configuration_loads_unchanged(tmp_path, config):
    args = parse_arguments([config("dataset: 'a: b.csv'\nsample_prompt: \"-- é\\n\"\nmax_songs: 3\ncompile: true")])
    args.save(tmp_path / "saved.yaml")
    assert load_arguments(tmp_path / "saved.yaml").to_dict() == args.to_dict()
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["sample_prompt"] == "-- é\n"


def test_differences_name_both_values_and_leave_out_what_may_change(config):
    before = parse_arguments([config("dataset: a.csv")])
    now = parse_arguments(
        [config("dataset: b.csv\nmax_steps: 7\neval_interval: 3\nhidden_size: 36\ntracker: tensorboard")]
    )
    assert describe_differences(before, now) == ["hidden_size: 384 in the run, 36 now"]
