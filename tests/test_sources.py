"""Sources of lyrics: kinds of files, compressions, globs, the Hub, and the oddities of real files."""

import csv
import gzip
import io
import json
import os
import random
import string
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import isolated_cache, read_songs_of, run, write_songs

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
from training_lyricgpt.corpus.report import describe_corpus

SONGS = [
    {"artist": "Ada", "song": "One", "text": 'She said "go", and I went,\r\nover the hill  \r\n\r\n'},
    {"artist": "Bo, Jr.", "song": 'The "Two"', "text": "Käse, naïve, ☃\tand 漢字 🎵"},
    {"artist": "", "song": "Three", "text": "a byte of \x00 nothing"},
    {"artist": "Ada", "song": "Four; five", "text": "semi; colons | pipes\n\n\n\nand gaps"},
]


def table(songs, delimiter=","):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(songs[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(songs)
    return buffer.getvalue().encode()


def parquet(songs):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(songs), buffer)
    return buffer.getvalue()


def jsonl(songs):
    return "".join(json.dumps(song, ensure_ascii=False) + "\n" for song in songs).encode()


def as_zip(content, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def as_zstandard(content):
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return buffer.getvalue().to_pybytes()


WRITERS = {".csv": table, ".tsv": lambda songs: table(songs, "\t"), ".jsonl": jsonl, ".parquet": parquet}
COMPRESSIONS = {
    "": lambda content, _: content,
    ".gz": lambda content, _: gzip.compress(content),
    ".zst": lambda content, _: as_zstandard(content),
    ".zip": as_zip,
}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", WRITERS)
def test_each_kind_of_file_gives_the_same_songs(tmp_path, ending, compression):
    content = COMPRESSIONS[compression](WRITERS[ending](SONGS), f"songs{ending}")
    path = write(tmp_path, f"songs{ending}{compression}", content)
    assert read_songs_of(path)[0] == SONGS


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_text_is_one_document_named_after_its_file(tmp_path, compression):
    text = "la la\r\n\r\n  la ☃\n"
    path = write(tmp_path, f"sea.txt{compression}", COMPRESSIONS[compression](text.encode(), "sea.txt"))
    assert read_songs_of(path)[0] == [{"artist": "", "song": "sea", "text": text}]


def test_the_files_of_an_archive_are_read_in_the_order_of_their_names(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, songs in (
            ("b/2.csv", SONGS[2:]),
            ("a.csv", SONGS[:2]),
            ("__MACOSX/._a.csv", None),
            ("notes.md", None),
        ):
            archive.writestr(name, table(songs) if songs else b"\x00junk")
    assert read_songs_of(write(tmp_path, "all.zip", buffer.getvalue()))[0] == SONGS


def test_a_glob_reads_files_of_several_kinds_with_different_column_names(tmp_path):
    write(tmp_path, "1.csv", "Lyrics,Artist,Title\nla la,Ada,One\n")
    write(tmp_path, "2.jsonl", '{"title": "Two", "lyric": "lu lu"}\n\n{"lyric": "li li", "singer": "Bo"}\n')
    write(tmp_path, "3.tsv", "text\nle le\n")
    assert read_songs_of(tmp_path / "?.*")[0] == [
        {"artist": "Ada", "song": "One", "text": "la la"},
        {"artist": "", "song": "Two", "text": "lu lu"},
        {"artist": "Bo", "song": "", "text": "li li"},
        {"artist": "", "song": "", "text": "le le"},
    ]


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, "a.csv", "text,who,what,words\nno,Ada,One,la la\n")
    songs, _ = read_songs_of(path, text_column="words", artist_column="who", title_column="what")
    assert songs == [{"artist": "Ada", "song": "One", "text": "la la"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_recognized_by_the_header_and_reported(tmp_path, delimiter):
    songs, report = read_songs_of(write(tmp_path, "a.csv", table(SONGS, delimiter)))
    assert songs == SONGS
    assert report["remarks"] == [f"the columns of a.csv are separated by {delimiter!r}"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le-with-mark", "latin-1"])
def test_files_with_byte_order_marks_and_in_other_encodings_are_read(tmp_path, encoding):
    content = "text\r\ncafé au lait\r\n"
    if encoding == "utf-16-le-with-mark":
        encoded, told = ("\ufeff" + content).encode("utf-16-le"), "utf-8"
    else:
        encoded, told = content.encode(encoding), encoding if encoding == "latin-1" else "utf-8"
    for compression in COMPRESSIONS:
        path = write(tmp_path, f"a.csv{compression}", COMPRESSIONS[compression](encoded, "a.csv"))
        assert read_songs_of(path, encoding=told)[0] == [{"artist": "", "song": "", "text": "café au lait"}]


def test_halves_of_surrogate_pairs_are_replaced_and_counted_and_whole_pairs_joined(tmp_path):
    path = write(tmp_path, "a.jsonl", r'{"text": "half \ud83c here"}' + "\n" + r'{"text": "whole \ud83c\udfb5"}' + "\n")
    songs, report = read_songs_of(path)
    assert [song["text"] for song in songs] == ["half \ufffd here", "whole 🎵"]
    assert report["replaced_surrogates"] == 1


def test_a_dataset_of_the_hub_is_read_from_the_cache_while_offline(tmp_path):
    """`datasets` caches a dataset under its id. One that is put there by hand loads like one that was downloaded."""
    found = isolated_cache(
        tmp_path,
        """
        import datasets, sys
        from pathlib import Path
        from conftest import read_songs_of
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "you___songs" / "default" / "0.0.0" / ("0" * 40)
        folder.mkdir(parents=True)
        table = datasets.Dataset.from_dict({"lyrics": ["la la", "lu lu", "li li"], "artist": ["Ada", "Bo", "Ada"]})
        builder = datasets.Dataset.from_dict(table[:])
        writer = datasets.arrow_writer.ArrowWriter(path=str(folder / "songs-train.arrow"), features=table.features)
        writer.write_table(table.data.table)
        examples, size = writer.finalize()
        splits = datasets.SplitDict(dataset_name="songs")
        splits.add(datasets.SplitInfo("train", num_examples=examples, num_bytes=size, dataset_name="songs"))
        datasets.DatasetInfo(
            features=table.features, builder_name="parquet", dataset_name="songs", config_name="default",
            version="0.0.0", splits=splits, dataset_size=size,
        ).write_to_directory(str(folder))
        print([song["text"] for song in read_songs_of("you/songs")[0]])
        print([song["text"] for song in read_songs_of("you/songs:default:train[1:]")[0]])
        """,
    )
    assert found.splitlines()[-2:] == ["['la la', 'lu lu', 'li li']", "['lu lu', 'li li']"]


def test_a_dataset_that_is_not_cached_is_refused_while_offline():
    with pytest.raises(LyricGPTError, match="nobody/nothing is not a file here, and it cannot be loaded as a dataset"):
        read_songs_of("nobody/nothing")


# --- what is wrong with a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".csv.zip", ".parquet", ".jsonl.gz", ".txt.zst"])
def test_a_truncated_file_is_refused_by_name(tmp_path, ending):
    letters = random.Random(0)
    songs = [{"song": str(n), "text": "".join(letters.choices(string.ascii_letters, k=300))} for n in range(200)]
    kind, _, compression = ending[1:].partition(".")
    content = {**WRITERS, ".txt": jsonl}[f".{kind}"](songs)
    content = COMPRESSIONS[f".{compression}" if compression else ""](content, f"songs.{kind}")
    for share in (0.3, 0.6, 0.95):
        path = write(tmp_path, f"songs{ending}", content[: int(len(content) * share)])
        with pytest.raises(LyricGPTError, match=r"songs\S* .*(cannot be read|is not)"):
            read_songs_of(path)


@pytest.mark.parametrize("ending", [".csv", ".txt", ".jsonl", ".gz", ".csv.gz", ".csv.zst", ".csv.zip"])
def test_a_file_with_the_wrong_ending_is_refused_with_what_it_is(tmp_path, ending):
    path = write(tmp_path, f"songs{ending}", parquet(SONGS))
    with pytest.raises(LyricGPTError, match=r"a Parquet file, as its first bytes show|its name says so|ends in"):
        read_songs_of(path)


def test_a_bad_line_of_json_is_named(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "la"}\n\n{"text": "lu",}\n')
    with pytest.raises(LyricGPTError, match=r"a\.jsonl, line 3, is not JSON"):
        read_songs_of(path)
    with pytest.raises(LyricGPTError, match=r"line 1, is a JSON list; each line must be an object"):
        read_songs_of(write(tmp_path, "b.jsonl", "[1, 2]\n"))
    with pytest.raises(LyricGPTError, match=r"line 2: 'text' must be a string, but is of type int"):
        read_songs_of(write(tmp_path, "c.jsonl", '{"text": "la"}\n{"text": 3}\n'))


def test_a_row_of_many_megabytes_is_taken_for_an_open_quote_and_not_for_a_song(tmp_path):
    path = write(tmp_path, "a.csv", 'text\nla la\n"never closed\n' + "la la la\n" * 2_000_000)
    with pytest.raises(LyricGPTError, match=r"the row after row 1 is longer than \d+ MB. Look there for a quote"):
        read_songs_of(path)


def test_tables_and_texts_cannot_be_one_corpus(tmp_path):
    write_songs(tmp_path / "a.csv", ["la"])
    write(tmp_path, "b.txt", "la")
    with pytest.raises(LyricGPTError, match="matches both tables and text files"):
        read_songs_of(tmp_path / "*")


def test_paths_can_have_spaces_brackets_and_other_scripts(tmp_path):
    folder = tmp_path / "Lieder [neu] für Ana"
    folder.mkdir()
    assert read_songs_of(write(folder, "песни *1*.csv", table(SONGS)))[0] == SONGS


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_read_skipped_changed_and_rare(tmp_path, make_songs):
    songs = [*make_songs(40), make_songs(40)[3], "", "Q\u0301 once\x07  \r\n"]
    path = write_songs(tmp_path / "songs.csv", songs)
    args = parse_arguments([f"--dataset={path}", "--output_dir=unused", "--alphabet=corpus", "--min_char_count=2"])
    report = load_corpus(args).report
    assert (report["rows"], report["songs"], report["skipped_empty"], report["duplicates"]) == (43, 42, 1, 1)
    assert report["changed_by_cleaning"] == 42
    assert report["cleaning_removed"]["control_characters"] == 1
    assert report["near_duplicates"]["songs"] == 2
    assert report["character_counts"]["a"] == sum(song.count("a") for song in songs)
    assert "Q" in report["rare_characters"] and "Q" not in report["alphabet_characters"]
    text = describe_corpus(report)
    for part in (
        "42 songs from songs.csv, 1 empty row skipped",
        "1 song is an exact copy of another song",
        "cleaning changed 42 songs:",
        "1 control character",
        "near-duplicates (songs that are almost the same): 2 songs in 1 group; each group is on one side of the split",
        "fewer than 2 times (min_char_count), replaced by <|unk|>: 'Q'",
    ):
        assert part in text, text


def test_a_line_break_at_the_end_of_each_song_is_not_reported(tmp_path):
    songs = [f"{letter} line\nanother line\n" for letter in "abcdefghijkl"]
    path = write_songs(tmp_path / "songs.csv", songs)
    report = load_corpus(parse_arguments([f"--dataset={path}", "--output_dir=unused"])).report
    assert report["changed_by_cleaning"] == report["cleaning_removed"]["blank_lines"] == 12
    assert "cleaning" not in describe_corpus(report)


# --- oddities of real files -------------------------------------------------------------------------------------------


def test_a_line_end_split_between_two_blocks_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("training_lyricgpt.corpus.tables.BLOCK_BYTES", 1 << 10)
    header = b'text\n"one"\n"'
    for shift in range(-3, 3):
        verse = b"y" * ((1 << 10) - 1 - len(header) + shift)
        path = write(tmp_path, "a.csv", header + verse + b'\r\nnext\r\r\n"\n"end"\n')
        assert [song["text"] for song in read_songs_of(path)[0]] == ["one", f"{verse.decode()}\r\nnext\r\r\n", "end"]


def test_each_line_of_json_can_have_another_name_for_its_lyrics(tmp_path):
    path = write(
        tmp_path,
        "a.jsonl",
        '{"version": "1.0"}\n{"lyrics": "la", "title": 7}\n{"text": "lu", "artist": ["Ada", "Bo"]}\n',
    )
    assert read_songs_of(path)[0] == [
        {"artist": "", "song": "7", "text": "la"},
        {"artist": "Ada, Bo", "song": "", "text": "lu"},
    ]


def test_excels_first_line_and_quotes_escaped_by_backslashes_are_understood(tmp_path):
    path = write(tmp_path, "a.csv", 'sep=;\nartist;text\nAda;"she said \\"go\\"; and left"\nBo;"la"\n')
    songs, report = read_songs_of(path)
    assert [song["text"] for song in songs] == ['she said "go"; and left', "la"]
    assert report["remarks"] == [
        "the columns of a.csv are separated by ';'",
        "the quotes in a.csv are escaped with backslashes",
    ]


def test_the_report_remarks_on_what_may_have_gone_wrong(tmp_path):
    _, report = read_songs_of(write(tmp_path, "a.csv", "la la\nlu lu\nli li\n"))
    assert report["remarks"] == [
        "the only column of a.csv was read as lyrics, and its first row as the name of the column: 'la la'"
    ]
    _, report = read_songs_of(write(tmp_path, "b.csv", 'text\nla\n"never closed\nlu\nli\n'))
    assert report["remarks"][-1].startswith(
        "there is an odd number of quotes in b.csv. If one is never closed, the songs after it"
    )


@pytest.mark.parametrize("encoding", ["utf-32", "utf-16"])
def test_wide_encodings_are_recognized_by_their_byte_order_marks(tmp_path, encoding):
    assert read_songs_of(write(tmp_path, "a.txt", "hello ☃".encode(encoding)))[0][0]["text"] == "hello ☃"


def test_names_in_parquet_need_not_be_strings(tmp_path):
    for name in ([1999, 2000], [["a", "b"], []], [{"first": "a"}, {"first": "b"}], [None, None]):
        content = pa.table({"text": pa.array([b"la", b"lu"], pa.binary()), "title": name})
        pyarrow.parquet.write_table(content, tmp_path / "a.parquet")
        songs, _ = read_songs_of(tmp_path / "a.parquet")
        assert [song["text"] for song in songs] == ["la", "lu"]
    pyarrow.parquet.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(LyricGPTError, match="column 'text' holds int64, not text"):
        read_songs_of(tmp_path / "b.parquet")
    pyarrow.parquet.write_table(pa.table({"text": pa.array([b"ba\xe9d"], pa.binary())}), tmp_path / "c.parquet")
    with pytest.raises(LyricGPTError, match=r"column 'text' is not UTF-8: byte 0xe9 in b'ba\\xe9d'"):
        read_songs_of(tmp_path / "c.parquet")


def test_a_file_name_that_is_not_utf_8_is_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(table(SONGS))
    report = load_corpus(
        parse_arguments([f"--dataset={os.fsdecode(path)}", "--output_dir=unused", "--block_size=2"])
    ).report
    assert report["songs"] == 4 and report["files"][0]["name"] == "caf?.csv"


REFUSED = {
    "nothing after the header": ("a.csv", "text", {}, "has a header but no rows"),
    "blank lines": ("a.jsonl", "\n\n", {}, "has no rows"),
    "zeros after a crash": ("a.jsonl", '{"text": "la"}\n' + "\0" * 600, {}, "line 2, is not JSON"),
    "a column that is not there": (
        "a.csv",
        "artist,text\na,b\n",
        {"artist_column": "band"},
        "no column 'band'; correct --artist_column",
    ),
    "a header in another encoding": ("a.csv", b"li\xe9nk,text\na,b\n", {}, "byte 0xe9 at position 2"),
    "no end of a header": ("a.csv", '"' + "x" * 200_000, {}, "its first row cannot be read"),
    "archives in archives": ("a.zip", as_zip(b"x", "b.csv.gz"), {}, "holds 'b.csv.gz', which is compressed itself"),
    "an archive of nothing known": (
        "a.zip",
        as_zip(b"x", "notes.md"),
        {},
        r"a\.zip holds only notes\.md; put a file in it that ends in \.csv, ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_odd_files_are_refused_in_one_line_that_a_terminal_can_show(tmp_path, case):
    name, content, options, message = REFUSED[case]
    with pytest.raises(LyricGPTError, match=message) as refusal:
        read_songs_of(write(tmp_path, name, content), **options)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", [".", "./.", "", "~nobody-of-this-name/songs.csv", "a" * 300])
def test_odd_paths_are_refused(name):
    with pytest.raises(LyricGPTError):
        read_songs_of(name)


def test_what_killed_processes_left_is_removed_by_the_next_preparation(tmp_path, monkeypatch):
    monkeypatch.setenv("LYRICGPT_CACHE", str(tmp_path / "cache"))
    left = tmp_path / "cache" / "tokens" / f".preparing-{'0' * 32}-abc"
    left.mkdir(parents=True)
    path = write_songs(tmp_path / "a.csv", [f"{number} " * 200 for number in range(20)])
    load_corpus(parse_arguments([f"--dataset={path}", "--output_dir=unused", "--block_size=8"]))
    assert not left.exists()


def test_a_thread_that_still_reads_does_not_crash_the_process_at_its_end(tmp_path):
    """A table is refused in its first block, while pyarrow's thread still reads the next ones (slowly, in this test)."""
    with (tmp_path / "large.csv").open("w") as file:
        file.write('artist,song,text\nA,one,"')
        file.writelines(["la la la and so the river runs\n"] * 3_000_000)
    code = """
import io, sys, time
from training_lyricgpt import LyricGPTError
from training_lyricgpt.corpus import tables
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
read = io.BufferedReader.read
class Slow(io.FileIO):
    def read(self, size=-1):
        time.sleep(0.1)
        return super().read(size)
quick = tables.open_utf8
def slow_for_pyarrow(source, encoding):
    return Slow(source.path) if sys._getframe(1).f_code.co_name in ("batches", "reader") else quick(source, encoding)
tables.open_utf8 = slow_for_pyarrow
try:
    load_corpus(parse_arguments([f"--dataset={sys.argv[1]}", "--output_dir=unused"]))
except LyricGPTError as error:
    sys.exit(f"error: {error}")
"""
    result = run([sys.executable, "-c", code, tmp_path / "large.csv"])
    assert result.returncode == 1, result.stderr
    assert "is longer than 8 MB" in result.stderr
