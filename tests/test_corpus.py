"""From files to cleaned, split songs and token streams."""

import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SAMPLE_LYRICS, spotify_text, write_songs
from datasets import Dataset

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus import cache as tokens
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.cleaning import clean
from training_lyricgpt.corpus.report import describe_corpus
from training_lyricgpt.corpus.songs import read_songs
from training_lyricgpt.corpus.streams import TokenStream, batch_offsets, evaluation_offsets

BLOCK = 32


def arguments(dataset, **values):
    return parse_arguments(["--config=/dev/null", f"--dataset={dataset}", f"--block_size={BLOCK}"] + [
        f"--{name}={value}" for name, value in values.items()
    ])  # fmt: skip


def read(args, pattern):
    """All songs in memory, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        songs = read_songs(args, str(pattern), Path(folder))
        return Dataset.from_dict(songs.dataset.select(songs.order)[:]), songs.report


def decoded(corpus, split):
    return corpus.tokenizer.decode(getattr(corpus, split).ids.tolist())


# --- cleaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("one  \r\ntwo\rthree\n", "one\ntwo\nthree"),
        ("a \t \nb\u00a0\n", "a\nb"),
        ("a\n\n\n\n \nb", "a\n\nb"),
        ("cafe\u0301", "café"),
        ("a\x00b\x07c\x85\ufeffd", "abcd"),
        ("  indented\n\ttab", "  indented\n\ttab"),
    ],
)
def test_standard_cleaning(raw, cleaned):
    assert clean(raw) == cleaned


def test_cleaning_twice_changes_nothing_more(make_songs):
    for song in make_songs(20):
        assert clean(clean(song)) == clean(song)


def test_no_cleaning_keeps_every_byte(tmp_path, make_songs):
    songs = make_songs(30)
    path = write_songs(tmp_path / "a.csv", songs)
    assert sorted(read(arguments(path, cleaning="none"), path)[0]["text"]) == sorted(songs)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_songs_called_none_or_na_keep_their_titles(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", make_songs(4), titles=["None", "NA", "null", "nan"])
    assert sorted(read(arguments(path), path)[0]["song"]) == ["NA", "None", "nan", "null"]


def test_empty_and_missing_texts_are_skipped_and_counted(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", [*make_songs(5), "", "   \r\n", "NaN"])
    _, report = read(arguments(path), path)
    assert (report["rows"], report["songs"], report["skipped_empty"]) == (8, 5, 3)


def test_songs_are_in_the_order_of_pandas_sample_drawn_before_empty_rows_are_dropped(tmp_path, make_songs):
    texts = make_songs(25)
    texts[3] = texts[11] = ""
    path = write_songs(tmp_path / "a.csv", texts)
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    expected = frame.sample(frac=1, random_state=42)["text"].dropna().tolist()
    assert read(arguments(path, cleaning="none"), path)[0]["text"][:] == expected


def test_max_songs_takes_the_first_of_that_order(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", make_songs(10))
    everything = read(arguments(path), path)[0]["text"][:]
    assert read(arguments(path, max_songs=3), path)[0]["text"][:] == everything[:3]


def test_other_columns_encodings_and_separators_are_read(tmp_path):
    latin = tmp_path / "latin.csv"
    latin.write_bytes("lyrics\nété\nnoël\n".encode("latin-1"))
    songs = read(arguments(latin, text_column="lyrics", encoding="latin-1"), latin)[0]
    assert sorted(songs["text"]) == ["noël", "été"]
    tabs = tmp_path / "songs.tsv"
    tabs.write_text('song\ttext\nA\tla la\nB\t"two\nlines"\n')
    assert sorted(read(arguments(tabs), tabs)[0]["text"]) == ["la la", "two\nlines"]


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path, make_songs):
    table = write_songs(tmp_path / "a.csv", make_songs(3), encoding="utf-8-sig")
    assert len(read(arguments(table), table)[0]) == 3
    text = tmp_path / "a.txt"
    text.write_text("la la", encoding="utf-8-sig")
    assert read(arguments(text), text)[0]["text"][:] == ["la la"]


def test_a_glob_reads_all_its_files(tmp_path, make_songs):
    for index in range(3):
        write_songs(tmp_path / f"part {index}.csv", make_songs(4, seed=index))
    assert len(read(arguments("x.csv"), tmp_path / "part*.csv")[0]) == 12


# --- splitting --------------------------------------------------------------------------------------------------------


def test_the_published_split_joins_songs_with_a_space_and_cuts_at_90_percent_of_the_characters(tmp_path, make_songs):
    texts = make_songs(40)
    texts[7] = ""
    path = write_songs(tmp_path / "a.csv", texts)
    corpus = load_corpus(
        arguments(path, cleaning="none", split="characters", alphabet="corpus", special_tokens="false")
    )
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    text = " ".join(frame.sample(frac=1, random_state=42)["text"].dropna())
    alphabet = sorted(set(text))
    expected = [alphabet.index(character) for character in text]
    cut = int(0.9 * len(text))
    assert corpus.tokenizer.alphabet == "".join(alphabet)
    assert corpus.train.ids.tolist() == expected[:cut]
    assert corpus.validation.ids.tolist() == expected[cut:]


def test_songs_are_split_whole_and_each_begins_and_ends_with_endoftext(tmp_path, make_songs):
    texts = make_songs(30)
    corpus = load_corpus(arguments(write_songs(tmp_path / "a.csv", texts), validation_fraction=0.2))
    parts = {split: decoded(corpus, split).split("<|endoftext|>") for split in ("train", "validation")}
    for songs in parts.values():
        assert songs[0] == songs[-1] == ""
    assert (len(parts["train"]) - 2, len(parts["validation"]) - 2) == (24, 6)
    assert sorted(parts["train"][1:-1] + parts["validation"][1:-1]) == sorted(map(clean, texts))


def test_the_split_does_not_depend_on_the_training_seed(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", make_songs(30))
    first, second = (load_corpus(arguments(path, seed=seed)) for seed in (1, 2))
    assert np.array_equal(first.train.ids, second.train.ids)


def test_a_text_file_is_one_document_split_by_characters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789\n" * 100)
    corpus = load_corpus(arguments(path, cleaning="none", special_tokens="false"))
    assert decoded(corpus, "train") + decoded(corpus, "validation") == "0123456789\n" * 100
    assert len(corpus.train) == 990


def test_a_validation_file_is_held_out_whole(tmp_path, make_songs):
    train = write_songs(tmp_path / "a.csv", make_songs(10, seed=1))
    held_out = write_songs(tmp_path / "b.csv", make_songs(3, seed=2))
    corpus = load_corpus(arguments(train, validation_file=held_out))
    assert corpus.report["songs_in"] == {"train": 10, "validation": 3}


def test_characters_found_only_in_validation_become_unk_and_are_counted(tmp_path, make_songs):
    train = write_songs(tmp_path / "a.csv", make_songs(10))
    held_out = write_songs(tmp_path / "b.csv", ["☃☃ " * 30])
    corpus = load_corpus(arguments(train, validation_file=held_out))
    assert corpus.report["unknown"] == {"train": 0, "validation": 60}
    assert "☃" in load_corpus(arguments(train, validation_file=held_out, alphabet="corpus")).tokenizer.alphabet


def test_without_special_tokens_such_characters_are_an_error_with_a_remedy(tmp_path, make_songs):
    train = write_songs(tmp_path / "a.csv", make_songs(10))
    held_out = write_songs(tmp_path / "b.csv", ["☃ " * 30])
    with pytest.raises(LyricGPTError, match=r"'☃'.*set alphabet to corpus"):
        load_corpus(arguments(train, validation_file=held_out, special_tokens="false"))


def test_the_literal_spelling_of_a_special_token_stays_characters(tmp_path, make_songs):
    texts = make_songs(10)
    texts[0] += "<|endoftext|>"
    corpus = load_corpus(arguments(write_songs(tmp_path / "a.csv", texts)))
    streams = np.concatenate([corpus.train.ids, corpus.validation.ids])
    # An end per song and one at the start: nine songs in training, one in validation.
    assert np.count_nonzero(streams == corpus.tokenizer.eos_token_id) == (9 + 1) + (1 + 1)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_second_start_prepares_and_hashes_nothing(tmp_path, make_songs, monkeypatch):
    path = write_songs(tmp_path / "a.csv", make_songs(20))
    first = load_corpus(arguments(path))

    def refuse(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(tokens, "prepare", refuse)
    monkeypatch.setattr("training_lyricgpt.files.hash_file", refuse)
    assert np.array_equal(load_corpus(arguments(path)).train.ids, first.train.ids)


def test_a_moved_file_with_the_same_content_is_not_prepared_again(tmp_path, make_songs, monkeypatch):
    path = write_songs(tmp_path / "a.csv", make_songs(20))
    first = load_corpus(arguments(path))
    moved = path.rename(tmp_path / "b.csv")
    monkeypatch.setattr(tokens, "prepare", None)
    assert load_corpus(arguments(moved)).report["checksum"] == first.report["checksum"]


def test_changed_content_or_settings_are_prepared_again(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", make_songs(20))
    sums = {load_corpus(arguments(path)).report["checksum"]}
    sums.add(load_corpus(arguments(path, cleaning="none")).report["checksum"])
    write_songs(path, make_songs(21))
    sums.add(load_corpus(arguments(path)).report["checksum"])
    assert len(sums) == 3


def test_the_same_bytes_as_a_table_and_as_a_text_are_two_corpora(tmp_path, make_songs):
    table = write_songs(tmp_path / "a.csv", make_songs(20))
    assert load_corpus(arguments(table)).report["songs"] == 20
    assert load_corpus(arguments(table.rename(tmp_path / "a.txt"))).report["songs"] == 1


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "tokenizer.json", "corpus.json"])
@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_damaged_cache_is_prepared_again(tmp_path, make_songs, monkeypatch, name, damage):
    monkeypatch.setenv("LYRICGPT_CACHE", str(tmp_path / "cache"))
    path = write_songs(tmp_path / "a.csv", make_songs(20))
    before = load_corpus(arguments(path)).train.ids.tolist()
    (file,) = (tmp_path / "cache" / "tokens").glob(f"*/{name}")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    (tmp_path / "cache" / "checksums.json").write_text("[")
    assert load_corpus(arguments(path)).train.ids.tolist() == before


def test_streams_are_memory_mapped_and_of_the_smallest_type():
    corpus = load_corpus(arguments(SAMPLE_LYRICS))
    assert isinstance(corpus.train.ids, np.memmap)
    assert corpus.train.ids.dtype == np.uint8


def test_the_report_has_no_path_of_this_machine(tmp_path, make_songs):
    corpus = load_corpus(arguments(write_songs(tmp_path / "a.csv", make_songs(20))))
    assert str(tmp_path) not in json.dumps(corpus.report)


def _checksum(path):
    return load_corpus(arguments(path)).report["checksum"]


def test_processes_that_prepare_at_the_same_time_all_get_the_same_corpus(tmp_path, make_songs):
    path = write_songs(tmp_path / "a.csv", make_songs(200))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_checksum, [path] * 4))) == 1


PINNED_OFFSETS = [320054, 273191, 106600, 462259]

# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step():
    draw = lambda seed, step: batch_offsets(seed, step, 64, 10_000, 256).tolist()  # noqa: E731
    assert draw(1, 5) == draw(1, 5)
    assert draw(1, 5) != draw(1, 6) != draw(2, 6)
    # Recorded once: every numpy and every machine must draw the same.
    assert batch_offsets(1337, 3, 4, 1_000_000, 256).tolist() == PINNED_OFFSETS


def test_offsets_reach_every_start_and_nothing_past_the_end():
    offsets = np.concatenate([batch_offsets(0, step, 64, BLOCK + 3, BLOCK) for step in range(20)])
    assert set(offsets) == {0, 1, 2}


def test_windows_are_pieces_of_the_stream():
    corpus = load_corpus(arguments(SAMPLE_LYRICS))
    windows = corpus.train.windows(np.array([0, 100]), BLOCK)
    assert windows.shape == (2, BLOCK + 1)
    assert windows[1].tolist() == corpus.train.ids[100 : 100 + BLOCK + 1].tolist()


def test_evaluation_windows_are_fixed_and_differ_between_the_splits():
    draw = lambda split: evaluation_offsets(1, split, 10, 100_000, BLOCK).tolist()  # noqa: E731
    assert draw("train") == draw("train") != draw("validation")


def test_a_small_split_is_evaluated_whole():
    length = 10 * BLOCK + 7
    offsets = evaluation_offsets(1, "validation", 64, length, BLOCK)
    predicted = {offset + 1 + index for offset in offsets for index in range(BLOCK)}
    assert predicted == set(range(1, length))
    assert len(offsets) == 11


# --- bad corpora ------------------------------------------------------------------------------------------------------


def test_a_bad_byte_is_named_with_its_position_and_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\nfirst\nsecond \xe9 line\n")
    with pytest.raises(LyricGPTError, match=r"byte 0xe9 at position 18 \(line 3\).*--encoding latin-1"):
        read(arguments(path), path)


def test_a_bad_byte_far_into_a_file_is_found_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("training_lyricgpt.corpus.decoding.BLOCK_BYTES", 7)
    path = tmp_path / "a.txt"
    content = "é☃ line\n".encode() * 50
    path.write_bytes(content + b"\xff")
    with pytest.raises(LyricGPTError, match=rf"byte 0xff at position {len(content)} \(line 51\)"):
        read(arguments(path), path)


def test_a_row_with_too_many_fields_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("artist,text\na,b\na,b,c\n")
    with pytest.raises(LyricGPTError, match="cannot be read as a table"):
        read(arguments(path), path)


def test_a_failed_preparation_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("LYRICGPT_CACHE", str(tmp_path / "cache"))
    path = write_songs(tmp_path / "a.csv", [spotify_text(["only one"])])
    with pytest.raises(LyricGPTError, match="only one song"):
        load_corpus(arguments(path))
    left = [entry for entry in (tmp_path / "cache" / "tokens").iterdir() if not entry.name.endswith(".lock")]
    assert left == []


def test_streams_longer_than_four_gigabytes_are_read_at_the_right_offsets(tmp_path):
    path, length = tmp_path / "train.bin", 5 * 2**30
    with path.open("wb") as file:  # sparse: it takes a few blocks on disk
        file.truncate(length)
        for place in (0, 2**32 - 1, 2**32 + 7, length - 4):
            file.seek(place)
            file.write(bytes([1, 2, 3, 4]))
    stream = TokenStream(np.memmap(path, dtype=np.uint8, mode="r"))
    assert len(stream) == length
    windows = stream.windows(np.array([0, 2**32 - 1, 2**32 + 7, length - 4]), 3)
    assert windows.tolist() == [[1, 2, 3, 4]] * 4
    offsets = batch_offsets(0, 3, 4096, length, 3)
    assert offsets.dtype == np.int64
    assert (offsets > 2**32).any()
    assert offsets.min() >= 0
    assert offsets.max() < length - 3


# --- report -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("special_tokens", "unit"), [("yes", "token"), ("no", "character")])
def test_the_report_counts_tokens_if_songs_have_end_marks_and_characters_otherwise(special_tokens, unit):
    corpus = load_corpus(arguments(SAMPLE_LYRICS, special_tokens=special_tokens, alphabet="corpus"))
    text = describe_corpus(corpus.report)
    assert f"{len(corpus.train):,} {unit}s (" in text
    assert ("(tokens: characters and end-of-song marks)" in text) == (special_tokens == "yes")
