"""Measures how fast a corpus is prepared, and in how much memory: `python benchmarks/corpus.py`.

It makes CSVs in the Spotify schema from the words of the embedded songs (1,190 characters per song; lines end in two spaces, CR
and LF; one song in a hundred is a cover of another) and prepares them in several ways, each in its own process. Seconds are
counted after imports. Memory is the largest sum of anonymous pages (`Pss_Anon`) of that process and its children, so it is
known on Linux only. Unless it says so, nothing is cached: neither prepared corpora nor, on Linux, the file's pages.

- LyricGPT: everything from the file to memory-mapped token streams, hashing included. It is measured without the search for
  near-duplicates, with it, and again when the corpus is prepared already.
- The floor: pyarrow's CSV reader alone, then one table look-up over the bytes of all texts. The streamed floor does the same
  without holding the corpus in memory or converting the other columns. Nothing can be faster. Neither writes anything.
- The original way (pandas, join, a list comprehension over characters) and a `tokenizers` model in `Dataset.map`, on 20 MB
  only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

CUT_MB = 20
LINES_A_SONG = 27
POOL_LINES = 200_000
SAMPLING_SECONDS = 0.05
TOUCHED_BYTES = 3 << 30
NEED_CACHE = ("again", "drawing")  # they use the cache of the way before them
BATCH_SIZE, BLOCK_SIZE = 64, 256
DRAWN_BATCHES = 200


def write_corpus(path: Path, size_mb: float, seed: int = 0) -> None:
    """Writes a CSV in the Spotify schema of about `size_mb` million bytes; the same for the same arguments."""
    import pandas as pd

    from training_lyricgpt.quality.metrics import words

    draw = np.random.default_rng(seed)
    vocabulary = sorted(
        {word for text in pd.read_csv(PROJECT / "data/sample_lyrics.csv")["text"] for word in words(text)}
    )
    order = draw.permutation(len(vocabulary))
    chances = 1 / (1 + np.argsort(order))
    chosen = draw.choice(len(vocabulary), size=POOL_LINES * 8, p=chances / chances.sum()).reshape(POOL_LINES, 8)
    pool = [" ".join(vocabulary[word] for word in line).capitalize() for line in chosen.tolist()]
    size, song, before = 0, 0, None
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("artist,song,link,text\r\n")
        while size < size_mb * 1e6:
            rows = []
            for lines in draw.integers(POOL_LINES, size=(1000, LINES_A_SONG)).tolist():
                if song % 100 == 99:  # a cover of the song before: one line is different, the last four are repeated
                    lines = [*before[:5], lines[0], *before[6:], *before[-4:]]
                before = lines
                text = "  \r\n".join([pool[line] for line in lines])
                rows.append(f'Artist {song % 643},"Song ""{song}""",/a/artist/song.html,"{text}  \r\n\r\n"\r\n')
                song += 1
            part = "".join(rows)
            file.write(part)
            size += len(part)


# ----------------------------------------------------------------------------------------------------------------------
# The ways to prepare a corpus; timing starts after their imports


def prepared(path: Path, *options: str) -> Callable[[], dict]:
    """LyricGPT: everything that training needs before its first step."""
    from training_lyricgpt.arguments import parse_arguments
    from training_lyricgpt.corpus.cache import load_corpus
    from training_lyricgpt.engine.devices import keep_freed_memory

    args = parse_arguments([f"--dataset={path}", "--output_dir=unused", *options])
    keep_freed_memory()  # as train_hf.py does

    def way() -> dict:
        corpus = load_corpus(args)
        figures = corpus.report["near_duplicates"]
        return {"tokens": len(corpus.train) + len(corpus.validation), "near_duplicates": figures["songs"]}

    return way


def floor(path: Path) -> Callable[[], dict]:
    """pyarrow's CSV reader alone, then one table look-up over the bytes of the texts."""
    import pyarrow.csv

    table = np.arange(256, dtype=np.uint8)

    def way() -> dict:
        songs = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
        chunks = [np.frombuffer(chunk.buffers()[2], np.uint8) for chunk in songs["text"].chunks]
        return {"tokens": sum(len(table[data]) for data in chunks)}

    return way


def streamed_floor(path: Path) -> Callable[[], dict]:
    """The same for the text column only, a few megabytes at a time."""
    import pyarrow.csv

    table = np.arange(256, dtype=np.uint8)

    def way() -> dict:
        reader = pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=1 << 23),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(include_columns=["text"]),
        )
        return {"tokens": sum(len(table[np.frombuffer(batch["text"].buffers()[2], np.uint8)]) for batch in reader)}

    return way


def published(path: Path) -> Callable[[], dict]:
    """The original notebook's way: pandas, one string, a list comprehension over its characters."""
    import pandas as pd
    import torch

    def way() -> dict:
        texts = pd.read_csv(path)["text"].dropna().sample(frac=1, random_state=42)
        text = " ".join(texts)
        ids = {character: index for index, character in enumerate(sorted(set(text)))}
        return {"tokens": len(torch.tensor([ids[character] for character in text], dtype=torch.long))}

    return way


def tokenized(path: Path) -> Callable[[], dict]:
    """A character tokenizer from `tokenizers` in `Dataset.map`, on all cores."""
    from datasets import load_dataset

    from tokenization_lyricgpt import LyricGPTTokenizer

    def way() -> dict:
        songs = load_dataset("csv", data_files=str(path), split="train", cache_dir=os.environ["LYRICGPT_CACHE"])
        alphabet = set().union(*map(set, songs["text"]))
        tokenizer = LyricGPTTokenizer.from_alphabet(alphabet)
        encode = tokenizer.backend_tokenizer.encode_batch
        ids = songs.map(
            lambda batch: {"input_ids": [song.ids for song in encode(batch["text"])]},
            batched=True,
            num_proc=os.cpu_count(),
            remove_columns=songs.column_names,
        )
        return {"tokens": sum(map(len, ids.with_format("arrow")[:]["input_ids"].to_pylist()))}

    return way


def tokenizing(path: Path, num_proc: int | None) -> Callable[[], dict]:
    """LyricGPT's tokenizing stage alone. The songs are read beforehand."""
    from tokenization_lyricgpt import LyricGPTTokenizer
    from training_lyricgpt.arguments import parse_arguments
    from training_lyricgpt.corpus.songs import read_songs
    from training_lyricgpt.corpus.splitting import Part, lay_out
    from training_lyricgpt.corpus.writing import write_stream
    from training_lyricgpt.engine.devices import keep_freed_memory

    args = parse_arguments([f"--dataset={path}", "--output_dir=unused"])
    folder = Path(os.environ["LYRICGPT_CACHE"])
    keep_freed_memory()  # as train_hf.py does
    songs = read_songs(args, args.dataset, folder)
    tokenizer = LyricGPTTokenizer.from_alphabet(map(chr, np.flatnonzero(songs.counts)))
    begins, _, total = lay_out(songs.characters[songs.order], 1, 1)

    def way() -> dict:
        write_stream(folder / "train.bin", Part(songs, songs.order), tokenizer, begins, total, "", num_proc)
        return {"tokens": total}

    return way


def drawing(path: Path) -> Callable[[], dict]:
    """Draws batches of 64 windows of 256 characters from a prepared corpus."""
    from training_lyricgpt.arguments import parse_arguments
    from training_lyricgpt.corpus.cache import load_corpus
    from training_lyricgpt.corpus.streams import batch_offsets

    args = parse_arguments([f"--dataset={path}", "--output_dir=unused", "--near_duplicates=ignore"])
    stream = load_corpus(args).train

    def way() -> dict:
        for step in range(DRAWN_BATCHES):
            stream.windows(batch_offsets(0, step, BATCH_SIZE, len(stream), BLOCK_SIZE), BLOCK_SIZE)
        return {"batches": DRAWN_BATCHES}

    return way


WAYS = {
    "ours": lambda path: prepared(path, "--near_duplicates=ignore"),
    "with_near_duplicates": prepared,
    "again": lambda path: prepared(path, "--near_duplicates=ignore"),
    "floor": floor,
    "streamed_floor": streamed_floor,
    "published": published,
    "tokenizers": tokenized,
    "tokenizing_0": lambda path: tokenizing(path, None),
    "tokenizing_1": lambda path: tokenizing(path, 1),
    "tokenizing_2": lambda path: tokenizing(path, 2),
    "drawing": drawing,
}


def run_way(name: str, path: Path, observed: bool) -> None:
    """Runs in a child process: times one way and prints JSON. `observed` says that its memory is being measured."""
    way = WAYS[name](path)
    os.sync()  # so that earlier writes do not reach the disk while this is timed
    if not observed:  # memory that a virtual machine has given back is slow the first time, so use it once
        np.ones(TOUCHED_BYTES, np.uint8)
    if name not in NEED_CACHE and hasattr(
        os, "posix_fadvise"
    ):  # forget the file's pages, so that it is read from the disk
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    result = way()
    print(json.dumps({"seconds": time.perf_counter() - started, **result}))


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def anonymous_bytes(root: int) -> int:
    """The sum of `Pss_Anon` of a process and its descendants, in bytes."""
    total, pending = 0, [root]
    while pending:
        folder = Path(f"/proc/{pending.pop()}")
        try:
            for task in (folder / "task").iterdir():
                pending += map(int, (task / "children").read_text().split())
            rollup = (folder / "smaps_rollup").read_text()
        except OSError:
            continue  # the process has ended
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss_Anon"))
    return total


def run_process(name: str, path: Path, cache: Path, observed: bool) -> dict:
    """Runs a way in its own process. Returns its figures, with `peak_memory_mb` if it is observed."""
    command = [sys.executable, __file__, "--way", name, "--path", str(path), *(["--observed"] if observed else [])]
    environment = os.environ | {"LYRICGPT_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "hf")}
    cache.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLING_SECONDS):
            peak[0] = max(peak[0], anonymous_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    if observed:
        watcher.start()
    output, errors = process.communicate()
    ended.set()
    if observed:
        watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors}")
    return json.loads(output.splitlines()[-1]) | ({"peak_memory_mb": peak[0] / 1e6} if observed else {})


def measure(names: tuple[str, ...], path: Path, folder: Path, rounds: int) -> dict[str, dict]:
    """Measures several ways in turns: memory in a first round, then median seconds over `rounds` unobserved rounds."""
    cache, figures, seconds = folder / "cache", {}, {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            if name not in NEED_CACHE:
                shutil.rmtree(cache, ignore_errors=True)
            figures[name] = figures.get(name, {}) | run_process(name, path, cache, observed=number == 0)
            if number > 0:
                seconds[name].append(figures[name]["seconds"])
    return {name: figures[name] | {"seconds": median(seconds[name])} for name in names}


def measure_size(size_mb: float, folder: Path, names: tuple[str, ...], rounds: int) -> dict[str, dict]:
    """The figures of these ways for a corpus of one size."""
    path = folder / f"songs-{size_mb:g}mb.csv"
    write_corpus(path, size_mb)
    megabytes = path.stat().st_size / 1e6
    figures = measure(names, path, folder, rounds)
    for row in figures.values():
        row |= {"mb": megabytes, "mb_per_second": megabytes / row["seconds"]}
    path.unlink()
    return figures


TITLES = {
    "ours": "LyricGPT, near-duplicates ignored",
    "with_near_duplicates": "LyricGPT, default settings",
    "again": "LyricGPT, in the cache already",
    "floor": "floor: CSV reader, then a look-up",
    "streamed_floor": "floor, streamed, text column only",
    "published": "the original way",
    "tokenizers": "tokenizers in Dataset.map",
    "tokenizing_0": "tokenizing alone, no worker",
    "tokenizing_1": "tokenizing alone, 1 worker",
    "tokenizing_2": "tokenizing alone, 2 workers",
}


def print_table(figures: dict[str, dict]) -> None:
    megabytes = figures["floor"]["mb"]
    print(f"\n{megabytes:,.0f} MB{'':<27}{'seconds':>10}{'MB/s':>10}{'x floor':>10}{'memory, MB':>12}")
    for name, title in TITLES.items():
        if name in figures:
            row = figures[name]
            print(
                f"{title:<34}{row['seconds']:>10.2f}{row['mb_per_second']:>10.1f}"
                f"{row['seconds'] / figures['floor']['seconds']:>10.2f}{row['peak_memory_mb']:>12,.0f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size_mb", type=float, nargs="+", default=[100, 1000], help="sizes of the large corpora in MB"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, of which the median is shown")
    parser.add_argument("--json", action="store_true", help="measure only the first size and print one line of JSON")
    parser.add_argument(
        "--folder", type=Path, help="where to put temporary corpora and caches (default: the system's folder)"
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--observed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        run_way(args.way, args.path, args.observed)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        if args.json:
            figures = measure_size(args.size_mb[0], folder, ("ours", "again", "floor"), args.rounds)
            ours, again, below = (figures[name] for name in ("ours", "again", "floor"))
            shown = {"size_mb": ours["mb"]} | {key: ours[key] for key in ("seconds", "mb_per_second", "peak_memory_mb")}
            print(
                json.dumps(
                    shown | {"times_floor": ours["seconds"] / below["seconds"], "again_seconds": again["seconds"]}
                )
            )
            return
        print_table(
            measure_size(CUT_MB, folder, ("ours", "floor", "streamed_floor", "tokenizers", "published"), args.rounds)
        )
        for size_mb in args.size_mb:
            large = (
                "floor", "streamed_floor", "ours", "again", "drawing", "with_near_duplicates", "tokenizing_0", "tokenizing_1", "tokenizing_2",
            )  # fmt: skip
            figures = measure_size(size_mb, folder, large, args.rounds)
            print_table(figures)
            seconds = [figures[f"tokenizing_{workers}"]["seconds"] for workers in (0, 1, 2)]
            drawing_ms = 1000 * figures["drawing"]["seconds"] / DRAWN_BATCHES
            print(
                f"two workers tokenize {seconds[1] / seconds[2]:.2f}x as fast as one worker and "
                f"{seconds[0] / seconds[2]:.2f}x as fast as none\n"
                f"drawing a batch of {BATCH_SIZE} x {BLOCK_SIZE} takes {drawing_ms:.2f} ms"
            )
            print(f"songs with a near-duplicate: {figures['with_near_duplicates']['near_duplicates']:,}")


if __name__ == "__main__":
    main()
