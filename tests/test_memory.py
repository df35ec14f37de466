"""Files that must be read whole and do not fit into memory give a one-line error before the process dies."""

import gzip
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import read_songs_of, run

from training_lyricgpt import LyricGPTError
from training_lyricgpt.corpus import memory
from training_lyricgpt.corpus.memory import NEEDED, available_memory

MEGABYTE = 1 << 20
LINE = b"la la la and so the river runs\n"


def write_large(path, megabytes):
    """Writes a file that unpacks to this many megabytes of text. Compressed, it is small."""
    content = LINE * (MEGABYTE // len(LINE) + 1)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("song.txt", "w") as file:
            file.writelines([content] * megabytes)
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            for _ in range(megabytes):
                file.write(content)
    elif path.name.endswith("jsonl.gz"):
        with gzip.open(path, "wb") as file:
            file.write(b'{"text": "' + b"la " * (megabytes * MEGABYTE // 3) + b'"}\n')
    else:
        with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
            file.writelines([content] * megabytes)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.zip", "a.jsonl.gz"])
def test_a_file_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch, name):
    path = write_large(tmp_path / name, 20)
    monkeypatch.setattr(memory, "available_memory", lambda: 10 * MEGABYTE * NEEDED)
    with pytest.raises(LyricGPTError, match=r"holds more than 11 MB in one piece, which does not fit in memory"):
        read_songs_of(path)
    monkeypatch.setattr(memory, "available_memory", lambda: 30 * MEGABYTE * NEEDED)
    songs, _ = read_songs_of(path)
    assert len(songs) == 1


def test_a_parquet_file_that_is_too_large_is_refused_by_its_own_metadata(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["la " * MEGABYTE] * 4}), path, use_dictionary=False)
    monkeypatch.setattr(memory, "available_memory", lambda: MEGABYTE * NEEDED)
    with pytest.raises(LyricGPTError, match=r"a\.parquet holds more than 2 MB in one piece"):
        read_songs_of(path)


def test_a_table_larger_than_memory_can_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("artist,song,text\n")
        file.writelines(f"A,{number},{'la ' * 3000}\n" for number in range(1000))
    monkeypatch.setattr(memory, "available_memory", lambda: MEGABYTE)
    songs, _ = read_songs_of(path)
    assert len(songs) == 1000


def test_a_table_of_one_endless_line_is_refused_after_its_beginning(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x" * (20 * MEGABYTE))
    with pytest.raises(LyricGPTError, match="its first row cannot be read"):
        read_songs_of(tmp_path / "a.csv")


def test_a_process_with_little_memory_says_so_and_does_not_die(tmp_path):
    """The operating system sets the limit. The file unpacks to four times as much."""
    path = write_large(tmp_path / "a.txt.gz", 2000)
    code = f"""
import resource, sys
import psutil
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus.cache import load_corpus
limit = psutil.Process().memory_info().vms + {500 * MEGABYTE}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load_corpus(parse_arguments(["--dataset={path}", "--output_dir=unused"]))
except LyricGPTError as error:
    sys.exit(f"error: {{error}}")
"""
    result = run([sys.executable, "-c", code])
    assert result.returncode == 1, result.stderr
    assert "in one piece, which does not fit in memory" in result.stderr and "Traceback" not in result.stderr


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    machine = available_memory(tmp_path)
    assert machine > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory(tmp_path) > machine // 2
    (tmp_path / "memory.max").write_text("1500\n")
    assert available_memory(tmp_path) == 500
    (tmp_path / "memory.max").write_text("900\n")
    assert available_memory(tmp_path) == 0
