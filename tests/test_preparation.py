"""Preparing a corpus: killed, in several processes at once, on a full disk, with several workers, with large alphabets."""

import multiprocessing
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
from conftest import options, write_songs

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.corpus import cache as tokens
from training_lyricgpt.corpus import preparation, splitting
from training_lyricgpt.corpus.cache import load_corpus

# Children are forked from a process that has imported everything but computed nothing: OpenMP does not survive a fork.
children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["training_lyricgpt.corpus.cache"])


@pytest.fixture
def corpus(tmp_path, make_songs):
    return write_songs(tmp_path / "songs.csv", make_songs(3000, lines=20))


def prepare(path, **values):
    return load_corpus(parse_arguments(options(**{"dataset": path, "output_dir": "unused", "block_size": 32} | values)))


def contents(cache):
    """The files in a cache of prepared corpora, by name."""
    folder = cache / "tokens"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prepare_in_child(cache, path, values, workers, limit):
    """Runs in a child: prepares into its own cache with this many workers. No file may be larger than `limit` bytes, if given."""
    os.setpgid(0, 0)
    os.environ["LYRICGPT_CACHE"] = str(cache)
    for module in (preparation, splitting):
        module.worker_count = lambda *_, **__: workers
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    original = tokens.prepare

    def noted(*arguments):
        with (cache.parent / "prepared.txt").open("a") as file:
            file.write("prepared\n")
        original(*arguments)

    tokens.prepare = noted
    try:
        prepare(path, **values)
    except LyricGPTError as error:
        (cache.parent / "error.txt").write_text(str(error))
        os._exit(1)
    os._exit(0)


def start(cache, path, workers=None, limit=None, **values):
    child = children.Process(target=prepare_in_child, args=(cache, path, values, workers, limit))
    child.start()
    return child


def assert_group_ends(group):
    """Waits until all workers of a killed process have ended."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers of a killed process are still running")


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["none", "artist_title"])
def test_a_preparation_killed_anywhere_and_started_again_gives_the_same_bytes(tmp_path, corpus, conditioning):
    settings = {"workers": 2, "conditioning": conditioning}
    start(tmp_path / "warm-up", corpus, **settings).join()
    started = time.monotonic()
    start(tmp_path / "whole", corpus, **settings).join()
    seconds = time.monotonic() - started
    draw, kills, cache = random.Random(conditioning), 0, tmp_path / "killed"
    for attempt in range(12):
        child = start(cache, corpus, **settings)
        child.join(draw.uniform(0.05, 0.95) * seconds if attempt < 11 else None)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            assert_group_ends(child.pid)
    assert child.exitcode == 0
    assert kills >= 3
    assert contents(cache) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_that_start_together_do_the_work_once(tmp_path, corpus):
    processes = [start(tmp_path / "cache", corpus) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "prepared.txt").read_text() == "prepared\n"


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("limit", [100_000, 700_000])
def test_a_full_disk_is_reported_and_nothing_is_left(tmp_path, corpus, workers, limit):
    child = start(tmp_path / "cache", corpus, workers=workers, limit=limit)
    child.join()
    assert child.exitcode == 1
    message = (tmp_path / "error.txt").read_text()
    assert "cannot be written" in message and "Set LYRICGPT_CACHE to a folder that you may write to" in message
    left = [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.suffix != ".lock"]
    assert left == []


@pytest.mark.slow
def test_several_workers_write_the_same_as_one(tmp_path, corpus):
    for workers in (None, 1, 2):
        start(tmp_path / str(workers), corpus, workers=workers).join()
    assert len(contents(tmp_path / "1")) > 5
    assert contents(tmp_path / "None") == contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("characters, dtype", [(200, np.uint8), (1000, np.uint16), (70_000, np.uint32)])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_ids_are_of_the_smallest_type_that_holds_the_alphabet(tmp_path, characters, dtype, special_tokens):
    alphabet = [chr(point) for point in range(0x4E00, 0x4E00 + 120_000) if not 0xD800 <= point < 0xF900][:characters]
    songs = ["".join(alphabet[begin::10]) for begin in range(10)]
    path = write_songs(tmp_path / "songs.csv", songs)
    corpus = prepare(path, cleaning="none", alphabet="corpus", special_tokens=special_tokens, block_size=8)
    assert corpus.train.ids.dtype == dtype
    decoded = [corpus.tokenizer.decode(stream.ids.tolist()) for stream in (corpus.train, corpus.validation)]
    found = [song for part in decoded for song in part.split("<|endoftext|>" if special_tokens else " ") if song]
    assert sorted(found) == sorted(songs)
