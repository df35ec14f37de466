"""Songs by artist and title: headers in training, prompts from the tokenizer, and figures that count only lyrics."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import SAMPLE_LYRICS, isolated, options, python, train, write_songs
from transformers import AutoTokenizer

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.headers import without_header
from training_lyricgpt.corpus.streams import stream_text
from training_lyricgpt.engine.evaluation import evaluate_split


def prepare(path, **values):
    return load_corpus(parse_arguments(options(**{"dataset": path, "output_dir": "unused", "block_size": 32} | values)))


def songs_of(corpus, split):
    stream = getattr(corpus, split)
    for song in stream.songs.to_pylist():
        header = stream_text(corpus.tokenizer, stream.ids[song["begin"] : song["lyrics"]])
        yield song, header, stream_text(corpus.tokenizer, stream.ids[song["lyrics"] : song["end"]])


def test_headers_come_before_validation_songs_and_change_no_lyrics():
    plain, conditioned = (
        prepare(SAMPLE_LYRICS, conditioning=kind, alphabet="corpus") for kind in ("none", "artist_title")
    )
    for split in ("train", "validation"):
        assert [lyrics for *_, lyrics in songs_of(conditioned, split)] == [
            lyrics for *_, lyrics in songs_of(plain, split)
        ]
    for song, header, _ in songs_of(conditioned, "validation"):
        assert header == f"Artist: {song['artist']}\nTitle: {song['title']}\n\n"
        prompt = conditioned.tokenizer.song_prompt(artist=song["artist"], title=song["title"])
        assert prompt == f"<|endoftext|>{header}"
        ids = conditioned.tokenizer(prompt).input_ids
        assert conditioned.validation.ids[song["begin"] - 1 : song["lyrics"]].tolist() == ids


def test_a_share_of_headers_is_left_out_in_training():
    corpus = prepare(SAMPLE_LYRICS, conditioning="artist_title")
    kinds = {"": 0, "artist": 0, "title": 0, "both": 0}
    for song, header, _ in songs_of(corpus, "train"):
        shown = {
            "": "",
            "artist": f"Artist: {song['artist']}\n\n",
            "title": f"Title: {song['title']}\n\n",
            "both": f"Artist: {song['artist']}\nTitle: {song['title']}\n\n",
        }
        kinds[next(kind for kind, text in shown.items() if text == header)] += 1
    songs = sum(kinds.values())
    assert all(0.04 * songs < kinds[kind] < 0.18 * songs for kind in ("", "artist", "title")), kinds


def test_a_header_can_have_the_title_alone():
    corpus = prepare(SAMPLE_LYRICS, conditioning="title", alphabet="corpus")
    assert all(header == f"Title: {song['title']}\n\n" for song, header, _ in songs_of(corpus, "validation"))


@pytest.mark.parametrize("name", ["<|endoftext|>", "{{ 7 * 7 }}", "two\r\nlines", "a\x00b  ", "\ud7ffé"])
def test_odd_names_become_plain_characters_on_one_line(tmp_path, make_songs, name):
    path = write_songs(tmp_path / "a.csv", make_songs(20), titles=[name] * 20)
    corpus = prepare(path, conditioning="title", alphabet="corpus")
    for *_, header, lyrics in songs_of(corpus, "validation"):
        assert header.count("\n") == 2 and header.startswith("Title: ") and lyrics.count("end ") == 1
    prompt = corpus.tokenizer.song_prompt(title="x" + name)
    assert prompt.count("\n") == 2


def test_headers_need_songs_with_names(tmp_path, make_songs):
    with pytest.raises(LyricGPTError, match="set split to songs and special_tokens to true"):
        prepare(SAMPLE_LYRICS, conditioning="title", split="characters")
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"song {n} of many words\n" for n in range(20)))
    with pytest.raises(LyricGPTError, match=r"no song in .* has an artist; name the right column with --artist_column"):
        prepare(tmp_path / "a.csv", conditioning="artist_title")
    (tmp_path / "a.txt").write_text("la la la\n" * 100)
    with pytest.raises(LyricGPTError, match="a text file has no artists and titles"):
        prepare(tmp_path / "a.txt", conditioning="title")


def test_figures_count_only_lyrics():
    corpus = prepare(SAMPLE_LYRICS, conditioning="artist_title")
    stream, block = corpus.validation, 32
    torch.manual_seed(0)
    model = LyricGPTForCausalLM(
        LyricGPTConfig(
            vocab_size=len(corpus.tokenizer),
            hidden_size=32,
            num_attention_heads=2,
            num_hidden_layers=1,
            block_size=block,
        )
    ).eval()
    offsets = np.arange(0, 2000, 7)
    in_header = np.zeros(len(stream), dtype=bool)
    for song in stream.songs.to_pylist():
        in_header[song["begin"] : song["lyrics"]] = True
    losses, hits = [], []
    with torch.no_grad():
        for offset in offsets:
            window = torch.from_numpy(stream.ids[offset : offset + block + 1].astype(np.int64))
            logits = model(window[None, :-1]).logits[0].double()
            counted = ~torch.from_numpy(in_header[offset + 1 : offset + block + 1])
            losses += (-logits.log_softmax(-1).gather(1, window[1:, None])[:, 0])[counted].tolist()
            hits += (logits.argmax(-1) == window[1:])[counted].tolist()
    assert len(losses) < len(offsets) * block
    result = evaluate_split(Accelerator(cpu=True), model, stream, offsets, block, 16)
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["accuracy"] == np.mean(hits)


@pytest.fixture(scope="module")
def two_artists(tmp_path_factory):
    """A run on two artists: one uses only the vowels a and e, the other only o and u. The titles give no hint."""
    folder = tmp_path_factory.mktemp("two")
    draw = np.random.default_rng(0)
    texts, rows = [], ["artist,song,text"]
    for number in range(400):
        vowels = "ae" if number % 2 else "ou"
        words = ["".join(draw.choice(list("lmnst")) + draw.choice(list(vowels)) for _ in range(2)) for _ in range(24)]
        texts.append(" ".join(words))
        rows.append(f"{'Ada' if number % 2 else 'Bo'},Song {draw.integers(1000)},{texts[-1]}")
    path = folder / "two.csv"
    path.write_text("\n".join(rows) + "\n")
    result = train(
        dataset=path, output_dir=folder / "run", conditioning="artist_title", block_size=96, max_steps=300, batch_size=16,
        eval_interval=300, save_interval=300, optimizer="muon", warmup_steps=20, dropout=0,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "run"


def share_of_a_and_e(text):
    vowels = [letter for letter in text if letter in "aeou"]
    return sum(letter in "ae" for letter in vowels) / len(vowels)


def test_the_artist_steers_what_is_written(two_artists):
    songs = {}
    for artist in ("Ada", "Bo"):
        result = python(
            "-m",
            "training_lyricgpt.sample",
            two_artists,
            "--artist",
            artist,
            "--title",
            "Song 12",
            "--max_new_tokens",
            "100",
            "--temperature",
            "0.5",
        )
        assert result.returncode == 0, result.stderr
        header, _, songs[artist] = result.stdout.partition("\n\n")
        assert header == f"Artist: {artist}\nTitle: Song 12"
    # Nine trainings with different seeds and processor instructions gave 1.0 and 0.0 each time.
    assert share_of_a_and_e(songs["Ada"]) > 0.8
    assert share_of_a_and_e(songs["Bo"]) < 0.2


def test_a_pipeline_without_this_project_writes_with_known_names_unknown_names_and_no_header(two_artists):
    result = isolated(
        """
from transformers import pipeline
write = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
for names in ({"artist": "Ada", "title": "Song 7"}, {"artist": "Nobody ☃", "title": "Unheard"}, {"artist": "Bo"}, {}):
    prompt = write.tokenizer.song_prompt(**names)
    # No sampling: at a temperature of 0.9, one song in a hundred begins with the other artist's vowels.
    print(repr(write(prompt, max_new_tokens=60, do_sample=False, return_full_text=False)[0]["generated_text"]))
""",
        str(two_artists),
    )
    assert result.returncode == 0, result.stderr
    ada, unknown, bo, nothing = map(eval, result.stdout.splitlines()[-4:])
    assert share_of_a_and_e(ada) > 0.9 and share_of_a_and_e(bo) < 0.1
    assert len(unknown) > 20 and len(nothing) > 20


def test_a_header_can_be_removed_from_a_song(two_artists):
    tokenizer = AutoTokenizer.from_pretrained(two_artists, trust_remote_code=True)
    assert without_header(tokenizer, "Artist: Ada\nTitle: One\n\nla la\n\nlu") == "la la\n\nlu"
    assert without_header(tokenizer, "la la\n\nlu") == "la la\n\nlu"


def test_a_model_without_headers_refuses_an_artist(tiny_run):
    result = python("-m", "training_lyricgpt.sample", tiny_run, "--artist", "Ada")
    assert result.returncode == 1
    assert f"--artist is 'Ada', but {tiny_run} was trained without artists; leave --artist out" in result.stderr
    assert "--conditioning artist_title" in result.stderr


def test_asking_a_model_trained_with_titles_for_an_artist_is_an_error(tmp_path):
    result = train(output_dir=tmp_path / "run", conditioning="title", max_steps=1, quality_songs=0)
    assert result.returncode == 0, result.stderr
    asked = ("-m", "training_lyricgpt.sample", tmp_path / "run", "--max_new_tokens", "5", "--title", "The Sea")
    assert python(*asked).returncode == 0
    result = python(*asked, "--artist", "Ada")
    assert result.returncode == 1
    assert "--artist is 'Ada', but" in result.stderr
    assert "was trained without artists; leave --artist out" in result.stderr


def test_a_run_that_starts_from_a_conditioned_model_uses_headers_unless_told_otherwise(two_artists, tmp_path):
    for given, expected in (({}, "artist_title"), ({"conditioning": "none"}, "none")):
        folder = tmp_path / expected
        arguments = options(
            dataset=SAMPLE_LYRICS, config="tests/tiny.yaml", init_from=two_artists, output_dir=folder, **given
        )
        shape = ("--block_size=96", "--max_steps=1")
        result = python("train_hf.py", *arguments, *shape)
        assert result.returncode == 0, result.stderr
        assert f"conditioning: {expected}\n" in (folder / "run.yaml").read_text()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        header = "<|endoftext|>Artist: Ada\n\n" if expected == "artist_title" else "<|endoftext|>"
        assert tokenizer.song_prompt(artist="Ada") == header
