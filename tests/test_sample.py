"""`python -m training_lyricgpt.sample`."""

import io

import torch
from conftest import python

from training_lyricgpt.model.loading import load_run
from training_lyricgpt.model.songs import write_song
from training_lyricgpt.sample import CharacterStreamer


def sample(*arguments):
    result = python("-m", "training_lyricgpt.sample", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_the_command_of_the_readme_writes_songs_that_begin_with_the_prompt(tiny_run):
    output = sample(tiny_run, "--prompt", "I walked along", "--num_samples", "3", "--temperature", "0.9", "--seed", "7")
    heads = [f"--- song {index} of 3, seed {6 + index} ---\n" for index in (1, 2, 3)]
    songs = output.split(heads[0])[1].replace(heads[1], heads[2]).split(heads[2])
    assert len(songs) == 3
    assert all(song.startswith("I walked along") for song in songs)
    assert len(set(songs)) == 3


def test_a_seed_gives_the_same_song_and_any_of_several_can_be_written_alone(tiny_run):
    options = ("--prompt", "The sea", "--max_new_tokens", "60")
    alone = sample(tiny_run, *options, "--seed", "8")
    assert alone == sample(tiny_run, *options, "--seed", "8")
    assert alone in sample(tiny_run, *options, "--seed", "7", "--num_samples", "2")


def test_temperature_zero_always_takes_the_likeliest_character(tiny_run):
    options = ("--temperature", "0", "--max_new_tokens", "60")
    assert sample(tiny_run, *options, "--seed", "1") == sample(tiny_run, *options, "--seed", "2")


def test_the_stream_is_written_character_by_character_and_equals_the_song(tiny_run):
    model, tokenizer = load_run(str(tiny_run))

    class Recorder(io.StringIO):
        pieces: list[str] = []

        def write(self, text):
            self.pieces.append(text)
            return super().write(text)

    recorder = Recorder()
    song = write_song(model, tokenizer, "I", seed=3, max_new_tokens=80, streamer=CharacterStreamer(tokenizer, recorder))
    assert "I" + recorder.getvalue() == song + "\n"
    assert max(map(len, recorder.pieces)) == 1


def test_an_empty_prompt_starts_a_song(tiny_run):
    model, tokenizer = load_run(str(tiny_run))
    torch.manual_seed(0)
    first = model.generate(max_new_tokens=5)
    assert first[0, 0] == tokenizer.bos_token_id
    assert write_song(model, tokenizer, max_new_tokens=20) != ""


def test_a_missing_run_folder_is_named_with_those_that_exist(tiny_run):
    result = python("-m", "training_lyricgpt.sample", tiny_run.parent / "tinny")
    assert result.returncode == 1
    assert (
        result.stderr == f"error: no such run folder: {tiny_run.parent / 'tinny'}. Models in {tiny_run.parent}: tiny\n"
    )
