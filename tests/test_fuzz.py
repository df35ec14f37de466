"""Readers, cleaning and tokens on texts that hypothesis makes up: prepared tokens always decode to the texts."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_sources import COMPRESSIONS, WRITERS, write

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.cleaning import clean, clean_batch, find_missing, is_missing
from training_lyricgpt.corpus.packed import KINDS, Batch
from training_lyricgpt.files import cache_folder

TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \t\r\n\"',;\x00\u0301\u2028\ufeffé☃")), max_size=40
)
LINES = st.sampled_from(
    [" ", "  ", "\n", "\r", "\r\n", "\t", "a", "bb", "é", "\x00", "\x0b", "\u0301", "\u2028", "\u3000", "\ufeff", "nan"]
)
RELAXED = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.explicit, Phase.generate]
)


@settings(RELAXED, max_examples=1000)
@given(st.lists(st.one_of(TEXTS, st.lists(LINES, max_size=12).map("".join)), min_size=1, max_size=6))
def test_a_batch_is_cleaned_and_counted_like_its_songs_one_by_one(songs):
    encoded = [song.encode() for song in songs]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    batch = Batch(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    counts = dict.fromkeys(KINDS, 0)
    expected = [clean(song, counts) for song in songs]
    cleaned = clean_batch(batch)
    assert [cleaned.text(song) for song in range(len(songs))] == expected
    assert cleaned.counts == counts
    assert cleaned.changed == sum(before != after for before, after in zip(songs, expected, strict=True))
    assert find_missing(batch).tolist() == [is_missing(song) for song in songs]


@pytest.mark.parametrize("cleaning", ["none", "standard"])
@pytest.mark.parametrize("ending", WRITERS)
@settings(RELAXED, max_examples=40)
@given(
    songs=st.lists(st.fixed_dictionaries({"artist": TEXTS, "song": TEXTS, "text": TEXTS}), min_size=1, max_size=8),
    compression=st.sampled_from(list(COMPRESSIONS)),
)
def test_prepared_tokens_decode_to_what_was_read(ending, cleaning, songs, compression):
    texts = [song["text"] for song in songs if not is_missing(song["text"])]
    if cleaning == "standard":
        texts = [text for text in map(clean, texts) if text]
    with tempfile.TemporaryDirectory() as folder:
        content = COMPRESSIONS[compression](WRITERS[ending](songs), f"songs{ending}")
        path = write(Path(folder), f"songs{ending}{compression}", content)
        args = parse_arguments(
            [
                *(f"--dataset={path}", "--output_dir=unused", f"--cleaning={cleaning}", "--alphabet=corpus"),
                *("--block_size=2", "--near_duplicates=keep"),
            ]
        )
        try:
            corpus = load_corpus(args)
        except LyricGPTError as error:
            assert len(texts) < 2, error  # nothing to hold out
            return
        finally:
            shutil.rmtree(cache_folder() / "tokens", ignore_errors=True)
    decode = corpus.tokenizer.decode
    parts = [decode(stream.ids.tolist()).split("<|endoftext|>") for stream in (corpus.train, corpus.validation)]
    assert all(part[0] == part[-1] == "" for part in parts)
    assert sorted(parts[0][1:-1] + parts[1][1:-1]) == sorted(texts)
    assert sum(len(text) for text in texts) == sum(corpus.report["character_counts"].values())
