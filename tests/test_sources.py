"""Any source of lyrics: kinds of files, compressions, globs, the Hub, and what real files look like."""

import csv
import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet
from conftest import read_all

from training_lyricgpt.arguments import parse_arguments

SONGS = [
    {"artist": "Ada", "song": "One", "text": 'She said "go", and I went,\r\nover the hill  \r\n\r\n'},
    {"artist": "Bo, Jr.", "song": 'The "Two"', "text": "Käse, naïve, ☃\tand 漢字 🎵"},
    {"artist": "", "song": "Three", "text": "\x00 a byte of nothing"},
    {"artist": "Ada", "song": "Four; five", "text": "semi; colons | pipes"},
]


def as_table(songs, delimiter=","):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(songs[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(songs)
    return buffer.getvalue().encode()


def as_parquet(songs):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(songs), buffer)
    return buffer.getvalue()


WRITERS = {
    ".csv": as_table,
    ".tsv": lambda songs: as_table(songs, "\t"),
    ".jsonl": lambda songs: "".join(json.dumps(song, ensure_ascii=False) + "\n" for song in songs).encode(),
    ".parquet": as_parquet,
}


def compress(content, compression, name):
    if compression == ".gz":
        return gzip.compress(content)
    if compression == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True) if False else zstd(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def zstd(content):
    buffer = io.BytesIO()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
        stream.flush()
        return buffer.getvalue() if not stream.closed else b""


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def songs_in(path, **values):
    """Artist, title and text of each song in the order of the file, and the report."""
    values = {"cleaning": "none"} | values
    args = parse_arguments([f"--dataset={path}", "--output_dir=unused", *[f"--{k}={v}" for k, v in values.items()]])
    return read_all(args)


def test_each_kind_of_file_gives_the_same_songs(tmp_path):
    for ending, writer in WRITERS.items():
        path = write(tmp_path, f"songs{ending}", writer(SONGS))
        assert songs_in(path)[0] == SONGS, ending
