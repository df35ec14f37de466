"""Covers of the same song are found, and never end up on both sides of a split."""

import csv
import random

import numpy as np
import pytest
from conftest import SAMPLE_LYRICS, write_songs
from datasets import Dataset, Features, Value

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.near_duplicates import find_near_duplicates
from training_lyricgpt.corpus.report import describe_corpus
from training_lyricgpt.corpus.streams import stream_text


@pytest.fixture(scope="module")
def embedded():
    with SAMPLE_LYRICS.open(encoding="utf-8", newline="") as file:
        return [song["text"] for song in csv.DictReader(file)]


def cover(text, draw, share=0.03):
    """The song as somebody else might write it down: some other words, no commas, some capitals, the end twice."""
    lines = []
    for line in text.splitlines():
        words = [word if draw.random() > share else f"{draw.choice('aeiou')}{word[::-1]}" for word in line.split()]
        line = " ".join(words).replace(",", "")
        lines.append(line.upper() if draw.random() < 0.2 else line)
    return "\n\n".join([*lines, *lines[-4:]])


def clusters(texts, folder):
    songs = Dataset.from_dict({"text": texts}, features=Features({"text": Value("large_string")}))
    return find_near_duplicates(songs, folder)


def test_every_cover_is_found_and_no_other_song_is_taken_for_one(embedded, tmp_path):
    draw = random.Random(0)
    found = clusters([*embedded, *(cover(text, draw) for text in embedded)], tmp_path)
    originals, covers = np.split(found, 2)
    assert np.array_equal(originals, covers)
    assert len(set(originals)) == len(embedded)


def test_songs_in_other_scripts_of_symbols_or_of_one_word_are_told_apart(tmp_path):
    texts = ["ночь улица фонарь аптека бессмысленный и тусклый свет", "живи ещё хоть четверть века всё будет так исхода нет",
             "床前明月光疑是地上霜举头望明月低头思故乡", "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少", "la", "lu", "!!!", "???", "🎵🎵"]  # fmt: skip
    assert len(set(clusters(texts, tmp_path))) == len(texts)
    duplicates = [texts[0].upper() + "!", texts[2] + "。"]
    assert len(set(clusters([*texts, *duplicates], tmp_path))) == len(texts)


@pytest.fixture
def covered(embedded, tmp_path):
    """The embedded songs, and a cover of every fourth one."""
    draw = random.Random(1)
    covers = [cover(text, draw) for text in embedded[::4]]
    return write_songs(tmp_path / "covered.csv", embedded + covers), len(covers)


def prepare(path, **values):
    return load_corpus(
        parse_arguments([f"--dataset={path}", "--output_dir=unused", *[f"--{k}={v}" for k, v in values.items()]])
    )


def songs_in(corpus, split):
    return stream_text(corpus.tokenizer, getattr(corpus, split).ids).strip("\n")


def straddling(corpus):
    """Counts validation songs with a near-duplicate in training by comparing sets of words, without signatures."""
    words = {
        split: [
            set(stream_text(corpus.tokenizer, stream.ids[begin:end]).lower().replace(",", "").split())
            for begin, end in zip(stream.songs["lyrics"].to_numpy(), stream.songs["end"].to_numpy(), strict=True)
        ]
        for split, stream in (("train", corpus.train), ("validation", corpus.validation))
    }
    return sum(
        any(len(song & other) > 0.6 * len(song | other) for other in words["train"]) for song in words["validation"]
    )


def test_near_duplicates_never_straddle_the_split_and_the_report_says_how_many_would_have(covered):
    path, covers = covered
    as_drawn = prepare(path, near_duplicates="keep")
    assert straddling(as_drawn) > 0
    grouped = prepare(path)
    assert straddling(grouped) == 0
    figures = grouped.report["near_duplicates"]
    assert (figures["mode"], figures["clusters"], figures["songs"]) == ("group", covers, 2 * covers)
    duplicates = figures["validation_songs_with_twin_in_training"]
    assert duplicates == {"as_drawn": straddling(as_drawn), "as_split": 0}
    ignored = f"near-duplicate in training: 0 ({duplicates['as_drawn']} if near-duplicates were ignored)"
    assert ignored in describe_corpus(grouped.report)
    assert (
        as_drawn.report["near_duplicates"]["validation_songs_with_twin_in_training"]["as_drawn"]
        == duplicates["as_drawn"]
    )
    assert "the validation loss is optimistic" in describe_corpus(as_drawn.report)
    held_out = grouped.report["songs_in"]["validation"]
    assert abs(held_out - 0.1 * sum(grouped.report["songs_in"].values())) <= 2


def test_near_duplicates_can_be_dropped(covered):
    path, covers = covered
    corpus = prepare(path, near_duplicates="drop")
    assert corpus.report["near_duplicates"]["left_out"] == covers
    assert sum(corpus.report["songs_in"].values()) == corpus.report["songs"] - covers
    assert straddling(corpus) == 0


def test_near_duplicates_of_a_validation_file_are_taken_out_of_training(covered, embedded, tmp_path):
    path, _ = covered
    draw = random.Random(2)
    held_out = write_songs(tmp_path / "held_out.csv", [cover(text, draw) for text in embedded[1::40]])
    corpus = prepare(path, validation_file=held_out)
    figures = corpus.report["near_duplicates"]
    assert figures["validation_songs_with_twin_in_training"] == {"as_drawn": len(embedded[1::40]), "as_split": 0}
    assert figures["left_out"] == len(embedded[1::40])
    assert straddling(corpus) == 0


def test_the_published_split_is_kept_and_its_report_counts_validation_songs_with_a_near_duplicate(covered):
    path, _ = covered
    values = {"split": "characters", "cleaning": "none", "special_tokens": "false", "alphabet": "corpus"}
    corpus = prepare(path, **values)
    ignored = prepare(path, **values, near_duplicates="ignore")
    assert np.array_equal(corpus.train.ids, ignored.train.ids)
    figures = corpus.report["near_duplicates"]
    assert figures["mode"] == "keep"
    assert figures["validation_songs_with_twin_in_training"]["as_drawn"] > 0
    assert ignored.report["near_duplicates"] == {"mode": "ignore", "clusters": 0, "songs": 0, "left_out": 0}


def test_a_corpus_of_one_song_over_and_over_cannot_be_split(embedded, tmp_path):
    path = write_songs(tmp_path / "same.csv", [cover(embedded[0], random.Random(n), 0.01) for n in range(10)])
    with pytest.raises(
        LyricGPTError, match=r"all \d+ songs in .* are near-duplicates of each other.*near_duplicates to keep"
    ):
        prepare(path)
    assert prepare(path, near_duplicates="keep").report["songs_in"] == {"train": 9, "validation": 1}
