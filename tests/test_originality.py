"""Figures about songs: known words, returning lines, bits per character, and exactly what is copied from where."""

import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import SAMPLE_LYRICS, options, train

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from tokenization_lyricgpt import LyricGPTTokenizer
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.streams import SONG_SCHEMA, TokenStream, stream_text
from training_lyricgpt.quality import copies as originality
from training_lyricgpt.quality.copies import TrainingIndex
from training_lyricgpt.quality.metrics import BitsPerCharacter, KnownWords, Originality, ReturningLines


def make_index(songs, alphabet="ab \n"):
    """An index of numbered songs by one artist, separated by `<|endoftext|>`."""
    tokenizer = LyricGPTTokenizer.from_alphabet(alphabet)
    ids, lengths = tokenizer.encode_corpus(songs)
    ends = np.cumsum(lengths)
    begins = ends - lengths + np.arange(len(songs)) + 1
    stream = np.insert(ids, np.concatenate([[0], ends]), tokenizer.eos_token_id)
    rows = [["Ada"] * len(songs), [f"Song {n}" for n in range(len(songs))], begins, begins, begins + lengths]
    return TrainingIndex(TokenStream(stream, pa.table(rows, schema=SONG_SCHEMA)), tokenizer)


@pytest.mark.parametrize("piece", [1 << 27, 150, 40])
def test_the_longest_run_at_every_character_is_what_a_plain_search_finds(monkeypatch, piece):
    monkeypatch.setattr(originality, "PIECE_TOKENS", piece)
    draw = random.Random(0)
    songs = ["".join(draw.choices("ab \n", weights=[8, 2, 1, 1], k=draw.randint(1, 39))) for _ in range(30)]
    texts = ["".join(draw.choices("ab \nx", weights=[8, 2, 1, 1, 0.3], k=60)) for _ in range(5)]
    texts += ["", songs[3] + songs[4], songs[7][2:]]
    for text, runs in zip(texts, make_index(songs).longest_runs(texts), strict=True):
        expected = []
        for begin in range(len(text)):
            end = begin
            while end < len(text) and any(text[begin : end + 1] in song for song in songs):
                end += 1
            expected.append(end - begin)
        assert runs.lengths.tolist() == expected


def test_a_copied_passage_is_named_with_its_song(monkeypatch):
    draw = random.Random(1)
    songs = ["".join(draw.choices("ab \n", k=300)) for _ in range(20)]
    text = "b" * 40 + songs[11][100:180] + "a" * 40 + songs[4][20:75]
    for piece in (1 << 27, 1000):
        monkeypatch.setattr(originality, "PIECE_TOKENS", piece)
        figures = Originality(make_index(songs)).compute(predictions=["bababa", text])
        first, second = figures["passages"]
        assert songs[11][100:180] in first["characters"] and first["title"] == "Song 11" and first["text"] == 1
        assert songs[4][20:75] in second["characters"] and second["title"] == "Song 4"
        assert figures["longest_copy"] == len(first["characters"]) >= 80
        copied = sum(any(text[n : n + 50] in song for song in songs) for n in range(len(text) - 49))
        assert figures["copied_windows"] == copied / (len(text) - 49)


def test_an_original_text_copies_only_short_runs():
    figures = Originality(make_index(["abba abba", "aab"])).compute(predictions=["bbbb", "aaaa"])
    assert figures["longest_copy"] == 2
    assert math.isnan(figures["copied_windows"])
    assert figures["passages"][0]["characters"] in ("bb", "aa")


def test_an_alphabet_with_ids_of_two_bytes_is_indexed_too():
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    index = make_index([alphabet, alphabet[::-1]], alphabet)
    assert index.stream.ids.dtype == np.uint16
    (runs,) = index.longest_runs([alphabet[300:350] + alphabet[10:12]])
    assert runs.lengths.tolist() == [*range(50, 0, -1), 2, 1]


def test_known_words_ignore_case_and_include_apostrophes():
    metric = KnownWords(["Don't go\nover the Hill", "sea"])
    assert metric.compute(predictions=["DON'T sea", "over don t"])["known_words"] == 3 / 5
    assert math.isnan(metric.compute(predictions=["12 …"])["known_words"])


def test_lines_that_return_are_counted_within_each_song():
    metric = ReturningLines()
    song = "La la la\n\nlu\nla, la, la!\nli\n"
    assert metric.compute(predictions=[song])["returning_lines"] == 1 / 4
    assert metric.compute(predictions=[song, "li\nlu"])["returning_lines"] == 1 / 6


@pytest.mark.parametrize("variant", ["classic", "modern"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
def test_bits_are_counted_for_each_character_given_the_text_before_it(variant, length):
    torch.manual_seed(0)
    tokenizer = LyricGPTTokenizer.from_alphabet("abcdefgh")
    config = LyricGPTConfig(
        variant=variant,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        block_size=16,
    )
    model = LyricGPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    text = "".join(random.Random(0).choices("abcdefgh", k=length))
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text)]
    bits = 0.0
    for position in range(1, len(ids)):
        # The window begins with the song at first, and later moves by half a block at a time.
        begin = max(0, min(-(-(position - 16) // 8) * 8, len(ids) - 17))
        logits = model(torch.tensor([ids[begin:position]])).logits[0, -1].double()
        bits -= logits.log_softmax(-1)[ids[position]].item() / math.log(2)
    found = BitsPerCharacter(model, tokenizer).compute(predictions=[text])["bits_per_char"]
    assert found == pytest.approx(bits / length, rel=1e-4)


def test_a_run_reports_the_figures_of_its_songs_beside_those_of_validation_songs(tmp_path):
    result = train(output_dir=tmp_path / "run", quality_songs=3, max_steps=30)
    assert result.returncode == 0, result.stderr
    quality = json.loads((tmp_path / "run" / "quality.json").read_text())
    assert quality["step"] == 30
    assert quality["sampled"]["songs"] == quality["held_out"]["songs"] == 3
    assert 0.5 < quality["held_out"]["known_words"] <= 1 and quality["sampled"]["known_words"] < 0.9
    corpus = load_corpus(parse_arguments(options(dataset=SAMPLE_LYRICS, output_dir="unused", block_size=32)))
    for side in ("sampled", "held_out"):
        for passage in quality[side]["passages"]:
            assert passage["characters"] in stream_text(corpus.tokenizer, corpus.train.ids)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| longest copy, in characters | {quality['sampled']['longest_copy']} |" in card
    assert "longest copy, in characters" in result.stdout
    again = train(output_dir=tmp_path / "run", quality_songs=3, max_steps=30)
    assert "longest copy, in characters" in again.stdout
    assert json.loads((tmp_path / "run" / "quality.json").read_text()) == quality
