"""Reports how a run folder works with one release of transformers: `python -I release_probe.py RELEASE REQUEST`.

It runs in its own process, which cannot import this project, and prints one JSON object. `RELEASE` is a folder to put before
site-packages ("-" for none). `REQUEST` is a JSON object with `folder` (the run folder), `prompts`, `text` (to read), `length`
(characters to write), `beams` (characters to write with beam search), and optionally `rename` (arguments of `renamed`).
"""

import contextlib
import importlib.machinery
import io
import json
import re
import sys
import tempfile
import time
import warnings

RELEASE, REQUEST = sys.argv[1], json.loads(sys.argv[2])
if RELEASE != "-":
    sys.path.insert(0, RELEASE)
for name in ("modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt", "train_hf", "push_to_hub"):
    sys.modules[name] = None  # importing it fails from here on, installed or not


def renamed(old, new, files=""):
    """Imitates a future release of transformers in which a keyword, a method or a function has another name.

    Args:
        old: Today's name, as a regular expression.
        files: A regular expression for the files of transformers in which the name changes. By default, all change.
    """
    loaders = importlib.machinery.SourceFileLoader
    source_of, stats_of = loaders.get_data, loaders.path_stats
    word = re.compile(rb"\b%s\b" % old.encode())

    def source(loader, path):
        """The text of a file in that release, or `None` if it is the same as today."""
        _, _, name = path.rpartition("/transformers/")
        if path.endswith(".py") and name != path and "transformers_modules" not in path and re.search(files, name):
            changed, count = word.subn(new.encode(), source_of(loader, path))
            return changed if count else None
        return None

    def get_data(loader, path):
        changed = source(loader, path)
        return source_of(loader, path) if changed is None else changed

    def path_stats(loader, path):
        if source(loader, path) is not None:
            raise OSError("the compiled file has the old name")
        return stats_of(loader, path)

    loaders.get_data, loaders.path_stats = get_data, path_stats


if REQUEST.get("rename"):
    renamed(*REQUEST["rename"])

import logging  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    TextStreamer,
    pipeline,
)

torch.set_num_threads(1)
messages = []


class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())


logger = logging.getLogger("transformers")
logger.addHandler(Keep(level=logging.WARNING))
logger.propagate = False
for handler in list(logger.handlers):
    if not isinstance(handler, Keep):
        logger.removeHandler(handler)


class Song(io.StringIO):
    """Collects what a streamer prints."""


def load(cls, folder):
    return cls.from_pretrained(folder, trust_remote_code=True)


def probe(folder, prompts, text, length, beams):
    """Loads the folder with every Auto class, and writes songs from `prompts` one by one and in a batch."""
    config = load(AutoConfig, folder)
    tokenizer = load(AutoTokenizer, folder)
    model = load(AutoModelForCausalLM, folder)
    found = {"config": type(config).__name__, "tokenizer": type(tokenizer).__name__, "model": type(model).__name__}
    found["bare"] = type(bare := load(AutoModel, folder)).__name__
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        found["logits"] = model(ids).logits[0].tolist()
        hidden = bare(ids).last_hidden_state
        assert torch.equal(model.lm_head(hidden), model(ids).logits), "AutoModel and AutoModelForCausalLM differ"
    # Greedy, but without repeated passages: a song that goes round in circles would hide errors.
    asked = {"do_sample": False, "suppress_tokens": [0, 1, 2], "max_new_tokens": length, "no_repeat_ngram_size": 6}
    loop = sys.modules[type(model).__module__]
    own_loop, loops = loop.sample, []
    loop.sample = lambda *args, **kwargs: loops.append(1) or own_loop(*args, **kwargs)

    def write(prompt, model=model, **options):
        inputs = tokenizer(prompt, return_tensors="pt", padding=True)
        output = model.generate(**inputs, **(asked | options))
        output = getattr(output, "sequences", output)
        songs = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :])
        return songs if isinstance(prompt, list) else songs[0]

    plain = {"no_repeat_ngram_size": 0}
    write(prompts[0], max_new_tokens=20)
    loops.clear()
    messages_before = list(messages)
    start = time.perf_counter()
    found["plain"] = write(prompts[0], **plain)
    found["characters_per_second"] = len(found["plain"]) / (time.perf_counter() - start)
    found["own_loop"] = bool(loops)
    found["alone"] = [write(prompt) for prompt in prompts]
    found["batch"] = write(prompts)
    found["uncached"] = write(prompts[0], use_cache=False)
    found["uncached batch"] = write(prompts, use_cache=False)
    found["as a dictionary"] = write(prompts[0], return_dict_in_generate=True, output_scores=True)
    found["batch as a dictionary"] = write(prompts, return_dict_in_generate=True)
    found["beams"] = write(prompts[0], num_beams=3, max_new_tokens=beams, **plain)
    found["beams in a batch"] = write(prompts, num_beams=3, max_new_tokens=beams, **plain)[0]
    found["prompt lookup"] = write(prompts[0], prompt_lookup_num_tokens=3, **plain)
    with contextlib.redirect_stdout(Song()) as printed:
        write(prompts[0], streamer=TextStreamer(tokenizer, skip_prompt=True))
    found["streamer"] = printed.getvalue().removesuffix("\n")
    write_with = pipeline("text-generation", model=folder, trust_remote_code=True)
    found["pipeline"] = write_with(prompts[0], return_full_text=False, **asked)[0]["generated_text"]
    found["pipeline of 20"] = len(write_with(prompts[0], max_length=20, do_sample=False)[0]["generated_text"])
    found["empty prompts"] = [
        len(song[0]["generated_text"]) for song in write_with(["", "I"], **(asked | {"max_new_tokens": 9}))
    ]
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        again = load(AutoModelForCausalLM, saved)
        found["saved and loaded"] = write(prompts[0], model=again)
        load(AutoTokenizer, saved)
    found["loading warnings"] = sorted(set(messages_before))
    found["warnings"] = sorted(set(messages) - set(messages_before))
    return found


if __name__ == "__main__":
    asked = REQUEST
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.redirect_stdout(io.StringIO()):
            result = probe(*(asked[name] for name in ("folder", "prompts", "text", "length", "beams")))
    result["version"] = transformers.__version__
    result["python warnings"] = sorted(
        {str(entry.message) for entry in caught if "transformers" in str(entry.filename)}
    )
    print(json.dumps(result))
