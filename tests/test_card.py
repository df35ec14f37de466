"""The model card is valid and true to the records, its commands and code run unchanged, and no song breaks the page."""

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import random
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PROJECT, SAMPLE_LYRICS, TINY, isolated, python, run, train
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from test_train import record_but_for_times

from modeling_lyricgpt import LyricGPTConfig
from modeling_lyricgpt.compat_lyricgpt import NEWEST, OLDEST
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import Arguments, load_arguments
from training_lyricgpt.card.assessment import SHOWN_EVALUATIONS
from training_lyricgpt.card.card import model_card
from training_lyricgpt.card.licenses import license_metadata
from training_lyricgpt.card.provenance import has_public_dataset
from training_lyricgpt.card.records import read_records
from training_lyricgpt.engine import environment
from training_lyricgpt.engine.environment import note_start, read_environment
from training_lyricgpt.engine.metrics import best_evaluation, read_metrics
from training_lyricgpt.files import read_json
from training_lyricgpt.hub.staging import shareable_settings
from training_lyricgpt.record_types import PACKAGES, Corpus, Evaluation, Quality, Songs, Start, parse_record

SECTIONS = [
    "Use",
    "Samples",
    "Figures",
    "How original it is",
    "Data",
    "Recipe and budget",
    "Limits",
    "Reproduce",
    "License",
]
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
HOSTILE = "a|b `c` ```d``` <b>e</b> <!-- & *f* _g_ [h](i) $j$ \\| ---"


def trained(tmp_path_factory, name, **values):
    folder = tmp_path_factory.mktemp("cards") / name
    result = train(output_dir=folder, **values)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory):
    """A run with quality figures and sample songs, on songs with a stated license."""
    return trained(tmp_path_factory, "judged", quality_songs=2, data_license="CC0-1.0")


@pytest.fixture(scope="module")
def named_run(tmp_path_factory):
    """A run that knows artists and titles, and whose sample songs begin with a prompt."""
    return trained(tmp_path_factory, "named", quality_songs=2, conditioning="artist_title", sample_prompt="I said")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A run on one text file, split by characters, without special tokens or judged songs."""
    path = tmp_path_factory.mktemp("texts") / "a hymn.txt"
    path.write_text("A line of a hymn | and ``` marks <b>\r\n---\n" * 200)
    return trained(tmp_path_factory, "text", dataset=path, special_tokens="false", variant="classic")


def records_of(folder):
    return read_records(folder, read_json(folder / "corpus.json"), read_metrics(folder))


def blocks(text, language):
    """The code blocks of a page in one language."""
    return [token.content for token in MARKDOWN.parse(text) if token.type == "fence" and token.info == language]


def headings(text):
    tokens = MARKDOWN.parse(text)
    return [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]


def tables(text):
    """The number of cells in each row of each table."""
    counts = []
    for token in MARKDOWN.parse(text):
        if token.type == "table_open":
            counts.append([])
        elif token.type == "tr_open":
            counts[-1].append(0)
        elif token.type in ("td_open", "th_open"):
            counts[-1][-1] += 1
    return counts


def section(text, name):
    return text.split(f"\n## {name}\n")[1].split("\n## ")[0]


def printed_by_blocks(text):
    """Runs the Python blocks of a page in one fresh process without this project, and returns what each prints."""
    code = "\n".join(f"exec({block!r}, {{}})\nprint('=== end ===')" for block in blocks(text, "python"))
    result = isolated(code)
    assert result.returncode == 0, result.stderr
    return result.stdout.split("=== end ===\n")[:-1]


def songs_of(folder):
    """The songs that a card shows, in order."""
    if (folder / "songs.json").exists():
        return [song["song"] for song in read_json(folder / "songs.json")["songs"]]
    return [best_evaluation(read_metrics(folder))["sample"]]


@pytest.fixture(params=["tiny", "judged", "named", "text"])
def any_run(request, tiny_run):
    """Each kind of run."""
    return tiny_run if request.param == "tiny" else request.getfixturevalue(f"{request.param}_run")


# ----------------------------------------------------------------------------------------------------------------------
# True to the records


def test_a_card_is_valid_and_its_model_index_is_the_best_evaluation(any_run):
    card = ModelCard.load(any_run / "README.md")
    best = best_evaluation(read_metrics(any_run))
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == f"lyricgpt-{any_run.name}"
    assert {result.metric_type: result.metric_value for result in results} == {
        "loss": round(best["val_loss"], 4),
        "accuracy": round(best["val_accuracy"], 4),
        "bits_per_character": round(best["val_bits_per_char"], 4),
    }
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert headings(card.text)[0] == f"lyricgpt-{any_run.name}"
    for row in read_metrics(any_run):
        cells = [f"{row[key]:.4f}" for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy")]
        assert " | ".join(cells) in section(card.text, "Figures").replace("**", "")
    for file in read_json(any_run / "corpus.json")["files"]:
        assert f"| `{file['name']}` | {file['bytes']:,} | `{file['sha256']}` |" in card.text
    assert "![Loss" in card.text


def test_the_record_says_with_what_it_was_trained_but_not_where(judged_run):
    (entry,) = read_environment(judged_run)
    assert entry["from_step"] == 0
    assert entry["packages"]["torch"] in section(ModelCard.load(judged_run / "README.md").text, "Reproduce")
    assert f"Python {entry['python']}" in (judged_run / "README.md").read_text()
    text = (judged_run / "environment.json").read_text()
    assert os.uname().nodename not in text and str(PROJECT) not in text


def numbers(text):
    """The numbers on a page that are not part of a name or a checksum."""
    return set(re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*(?!\w)", text))


def with_other_numbers(value, draw):
    """A record of the same form, in which every number and digit is random."""
    if isinstance(value, dict):
        return {key: with_other_numbers(item, draw) for key, item in value.items()}
    if isinstance(value, list):
        return [with_other_numbers(item, draw) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return re.sub(r"\d", lambda _: str(draw.randrange(10)), value)
    return draw.randrange(1000, 10**6) if isinstance(value, int) else draw.uniform(0.01, 0.99)


def test_no_figure_in_a_card_is_typed_by_hand(judged_run):
    ours = records_of(judged_run)
    ours.corpus["near_duplicates"]["clusters"] = 2
    cards = []
    for seed in range(12):
        draw = random.Random(seed)
        names = ("corpus", "rows", "quality", "songs", "environment")
        drawn = {name: with_other_numbers(getattr(ours, name), draw) for name in names}
        shape = {"hidden_size": 8 * draw.randrange(20, 200), "num_attention_heads": 4, "sliding_window": None}
        settings = with_other_numbers(ours.args.to_dict() | {"data_license": "mit"}, draw) | shape
        drawn["args"] = Arguments(**settings)
        config = ours.config.to_dict() | {"hidden_size": 8 * draw.randrange(20, 200), "hidden_dropout": draw.random()}
        config |= {
            "num_hidden_layers": draw.randrange(11, 20),
            "num_attention_heads": 4,
            "sliding_window": draw.randrange(33, 99),
        }
        config |= {"max_position_embeddings": 99, "layer_types": None, "intermediate_size": draw.randrange(100, 999)}
        drawn["config"] = LyricGPTConfig(**config)
        cards.append(numbers(str(model_card(dataclasses.replace(ours, **drawn)))))
    typed = set.intersection(*cards)
    names = {"2.0", "256", "0"}  # Apache-2.0, SHA-256, and an index into a list in Python
    # Constants in the code: an example's temperature, lengths, thresholds, releases of transformers.
    constants = {"0.7", "300", "10", "35", "16", "50", OLDEST, NEWEST}
    kept = {"4", "61", "100.0", "1"}  # not varied: heads, characters, the share of Latin ones, windows of a short text
    assert typed <= names | constants | kept, typed - names - constants - kept


# ----------------------------------------------------------------------------------------------------------------------
# Its code and commands run


def test_the_python_code_of_a_card_runs_without_the_project_and_prints_the_samples_shown(any_run):
    text = ModelCard.load(any_run / "README.md").text
    songs, shown = songs_of(any_run), section(text, "Samples")
    assert [block.removesuffix("\n") for block in blocks(shown, "text")] == songs
    first, second = printed_by_blocks(text)
    assert first.count("\n") >= 2
    assert second == "".join(f"{song}\n" for song in songs)


def test_the_command_of_the_samples_prints_the_first_of_them(any_run):
    (command,) = blocks(section(ModelCard.load(any_run / "README.md").text, "Samples"), "bash")
    _, *arguments = shlex.split(command.replace("\\\n", ""))
    result = python(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{songs_of(any_run)[0]}\n"


def test_a_song_asked_for_by_name_is_shown_with_its_name(named_run):
    text = ModelCard.load(named_run / "README.md").text
    songs = read_json(named_run / "songs.json")["songs"]
    assert len({song["title"] for song in songs}) == 3
    for song in songs:
        assert song["song"].startswith(f"Artist: {song['artist']}\nTitle: {song['title']}\n\nI said")
        assert f"title {song['title']}" in section(text, "Samples")
        assert f'({song["seed"]}, "{song["artist"]}", "{song["title"]}")' in section(text, "Use")


def test_only_the_card_of_a_model_trained_with_names_mentions_them(judged_run, text_run):
    for folder in (judged_run, text_run):
        assert "song_prompt" not in (folder / "README.md").read_text()


def reproduce(text, folder, **environment):
    """Runs the commands of a card that train the model again."""
    (commands,) = blocks(section(text, "Reproduce"), "bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = run(["bash", "-ec", commands], cwd=folder, PATH=path, **environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_command_of_a_card_trains_the_same_model_again(judged_run):
    reproduce(ModelCard.load(judged_run / "README.md").text, PROJECT)
    again = judged_run.with_name("judged-again")
    assert record_but_for_times(again) == record_but_for_times(judged_run)
    for name in ("model.safetensors", "quality.json", "songs.json", "samples.txt"):
        assert (again / name).read_bytes() == (judged_run / name).read_bytes(), name


@pytest.mark.slow
def test_the_code_and_the_command_of_a_published_card_run_from_the_hub(judged_run, hub, tmp_path, monkeypatch):
    for name, value in hub.client.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token())
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    result = python("push_to_hub.py", judged_run, "you/judged", "--twin", client=hub.client, HF_TOKEN=hub.token())
    assert result.returncode == 0, result.stderr
    text = ModelCard(hub.files("you/judged")["README.md"].decode()).text
    assert 'from_pretrained("you/judged", trust_remote_code=True)' in text and str(judged_run) not in text
    first, second, third = printed_by_blocks(text)
    assert first and third == ""
    assert second == "".join(f"{song}\n" for song in songs_of(judged_run))
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("train_hf.py", "configs", "modeling_lyricgpt", "tokenization_lyricgpt", "training_lyricgpt"):
        (clone / name).symlink_to(PROJECT / name)
    shutil.copy(SAMPLE_LYRICS, clone)
    reproduce(text, clone)
    assert record_but_for_times(clone / "judged") == record_but_for_times(judged_run)


# ----------------------------------------------------------------------------------------------------------------------
# Nothing in a record breaks the page


def test_hostile_songs_names_and_files_do_not_break_the_page(named_run, tmp_path):
    ours = records_of(named_run)
    plain = str(model_card(ours))
    song = f"---\nlicense: mit\n---\n# {HOSTILE}\n\n````\n</pre><script>\n| x | y |\n\r\n~~~\n"
    theirs = copy.deepcopy(ours)
    theirs.songs["prompt"] = HOSTILE
    theirs.args = theirs.args.replace(
        output_dir=f"runs/{HOSTILE.replace('/', '')}: 'x' #",
        data_license=f"--- {HOSTILE}: see https://example.org/license",
        sample_prompt=HOSTILE,
    )
    theirs.corpus["files"][0]["name"] = f"--- {HOSTILE}\n---\n.csv"
    theirs.corpus["remarks"] = [HOSTILE]
    for shown in theirs.songs["songs"]:
        shown |= {"artist": HOSTILE, "title": f"'{HOSTILE}\"", "song": song}
    theirs.quality["sampled"]["passages"] = [{"text": 0, "characters": song, "artist": HOSTILE, "title": HOSTILE}]
    theirs.environment[0]["device_name"] = HOSTILE
    (tmp_path / "README.md").write_text(str(model_card(theirs)), encoding="utf-8", newline="")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "other" and card.data.license_link == "https://example.org/license"
    assert re.fullmatch(r"[a-z0-9.-]+", card.data.license_name)
    assert model_index_to_eval_results(card.data.to_dict()["model-index"])[1][0].metric_value > 0
    before = ModelCard(plain).text
    assert headings(card.text)[1:] == headings(before)[1:]
    assert tables(card.text) == tables(before)
    tokens = MARKDOWN.parse(card.text)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in tokens + inline if token.type in ("html_block", "html_inline", "hr", "link_open")]
    expected = song.replace("\r\n", "\n")
    assert [block.removesuffix("\n") for block in blocks(section_text(card.text, "Samples"), "text")] == [expected] * 3
    for block in blocks(card.text, "python"):
        compile(block, "card", "exec")
    for block in blocks(card.text, "bash"):
        shlex.split(block)


MARKUP = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!-- ", "-->", "</details>", "&lt;b&gt;", "[x](https://evil.example)",
    "![x](https://evil.example/x.png)", "[x]: https://evil.example", "<https://evil.example>", "https://evil.example", "www.evil.example",
    "someone@evil.example", "\n\n# A heading\n\n", "\nA heading\n===\n", "\n\n---\n", "\n```\ncode\n```\n", "\n~~~\n", "`", "``", "````", "|",
    "\\", "\\|", "*", "__", "$x$", "\r", "\u2028", "\t", "    ", "\n- ", "\n> ", "{{ 7 * 7 }}", "'", '"', ":", "#", "%", "\x07", "\u202e", "é",
]  # fmt: skip
FORM = (
    "html_block",
    "html_inline",
    "link_open",
    "image",
    "fence",
    "code_block",
    "heading_open",
    "hr",
    "table_open",
    "blockquote_open",
)


def hostile(draw):
    return "".join(draw.choice([*MARKUP, "la", " ", draw.choice("aZ é1_.-")]) for _ in range(draw.randint(1, 6)))


def form_of(page):
    """The elements of a page in order, and the addresses in its prose, which the Hub would turn into links."""
    tokens = MARKDOWN.parse(page)
    inline = [child for token in tokens for child in token.children or []]
    made = [token.type + token.tag for token in tokens if token.type in FORM]
    made += [token.type for token in inline if token.type in FORM]
    prose = " ".join(token.content for token in inline if token.type == "text")
    return made, re.findall(r"\w+://|www\.|\w@\w", prose)


def texts_in(value, place=()):
    """The keys that lead to each text in a record."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts_in(part, (*place, key))


def put(value, place, text):
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = text


@pytest.mark.parametrize("seed", range(8))
def test_no_text_in_a_record_breaks_the_page(named_run, seed):
    """Puts hostile texts wherever a record's type allows them. Texts that the type refuses never reach a page."""
    ours, draw = records_of(named_run), random.Random(seed)
    kinds = {"corpus": Corpus, "quality": Quality, "songs": Songs, "environment": list[Start], "rows": list[Evaluation]}
    for _ in range(12):
        theirs = copy.deepcopy(ours)
        for name, kind in kinds.items():
            record = getattr(theirs, name)
            for place in texts_in(record):
                changed = copy.deepcopy(record)
                put(changed, place, hostile(draw))
                with contextlib.suppress(LyricGPTError):
                    parse_record(json.dumps(changed), kind, Path(name), "")
                    put(record, place, changed_text(changed, place))
        fields = ("dataset", "output_dir", "init_from", "data_license", "sample_prompt")
        theirs.args = theirs.args.replace(**{field: hostile(draw) for field in fields})
        card = ModelCard(str(model_card(theirs)))
        assert form_of(card.text) == form_of(shaped_like(theirs, ours))
        for block in blocks(card.text, "python"):
            compile(block, "card", "exec")
        for block in blocks(card.text, "bash"):
            shlex.split(block)


def changed_text(value, place):
    for key in place:
        value = value[key]
    return value


def shaped_like(theirs, ours):
    """The page of our records with a harmless x in place of each text that differs in theirs."""
    plain = copy.deepcopy(ours)
    for name in ("corpus", "quality", "songs", "environment", "rows"):
        for place in texts_in(getattr(theirs, name)):
            if changed_text(getattr(theirs, name), place) != changed_text(getattr(ours, name), place):
                put(getattr(plain, name), place, "x")
    for field in ("dataset", "output_dir", "init_from", "data_license", "sample_prompt"):
        plain.args = plain.args.replace(**{field: "x"})
    return ModelCard(str(model_card(plain))).text


def section_text(text, name):
    """A section of a page, even if its code has lines that look like headings."""
    lines, tokens = text.split("\n"), MARKDOWN.parse(text)
    begins = {
        after.content: token.map[0]
        for token, after in itertools.pairwise(tokens)
        if token.type == "heading_open" and token.tag == "h2"
    }
    ends = [line for line in begins.values() if line > begins[name]]
    return "\n".join(lines[begins[name] : min(ends, default=len(lines))])


@pytest.mark.parametrize("without", ["quality", "songs", "environment", "has_curves"])
def test_the_card_of_a_run_without_a_record_leaves_only_that_part_out(judged_run, without):
    ours = records_of(judged_run)
    absent = {"environment": [], "has_curves": False}.get(without)
    text = ModelCard(str(model_card(dataclasses.replace(ours, **{without: absent})))).text
    expected = [name for name in SECTIONS if without != "quality" or name != "How original it is"]
    assert [name for name in headings(text) if name in SECTIONS] == expected
    assert ("curves.png" in text) == (without != "has_curves")
    assert ("were not recorded" in text) == (without == "environment")
    assert ("was not measured" in text) == (without == "quality")
    if without == "songs":
        assert ours.best["sample"] in text
    assert "None" not in text and "nan" not in text.lower().split()


def test_a_text_file_is_a_document_and_its_end_is_held_out(text_run):
    text = ModelCard.load(text_run / "README.md").text
    assert "1 document from a hymn.txt" in section(text, "Data")
    assert "the last 10% of the characters are set aside for validation" in section(text, "Data")
    assert "Any other character in a prompt is refused" in section(text, "Limits")
    assert "were not searched for" in section(text, "Data")
    assert "It sees at most 32 characters" in section(text, "Limits")


def test_the_card_says_what_was_done_with_duplicates(judged_run):
    ours = records_of(judged_run)
    straddling = {"as_drawn": 4, "as_split": 0}
    ours.corpus["near_duplicates"] = {"mode": "group", "clusters": 2, "songs": 5, "left_out": 0}
    ours.corpus["near_duplicates"]["validation_songs_with_twin_in_training"] = straddling
    ours.corpus |= {"duplicates": 3, "skipped_empty": 2}
    data = section(str(model_card(ours)), "Data")
    assert "5 songs in 2 groups; each group is on one side of the split" in data
    assert "0 (4 if near-duplicates were ignored)" in data
    assert "3 songs are exact copies of another song" in data
    assert "2 empty rows skipped" in data


def test_many_evaluations_and_many_files_stay_readable(judged_run):
    ours = records_of(judged_run)
    row = ours.rows[-1]
    ours.rows = [row | {"step": 10 * index, "val_loss": abs(index - 333) + 1.0} for index in range(500)]
    ours.corpus["files"] = [ours.corpus["files"][0] | {"name": f"{index}.csv"} for index in range(300)]
    text = str(model_card(ours))
    shown = re.findall(r"^\| \**([\d,]+)\** \|", section(text, "Figures"), flags=re.M)
    assert len(shown) <= SHOWN_EVALUATIONS
    assert {shown[0], shown[-1]} == {"0", "4,990"} and "3,330" in shown
    assert f"{len(shown)} of 500 evaluations. `metrics.jsonl` has all of them" in text
    assert "And 290 more: `corpus.json` has the checksum of each" in text
    assert len(text.splitlines()) < 300


# ----------------------------------------------------------------------------------------------------------------------
# License, versions


@pytest.mark.parametrize(
    ("stated", "fields"),
    [
        (None, {}),
        ("  ", {}),
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("Public domain in Austria", {"license": "other", "license_name": "public-domain-in-austria"}),
        ("版权所有", {"license": "other", "license_name": "stated-in-the-card"}),
        (
            "mine: https://a.org/b",
            {"license": "other", "license_name": "mine-https-a.org-b", "license_link": "https://a.org/b"},
        ),
    ],
)
def test_the_license_in_the_card_is_the_stated_one(judged_run, stated, fields):
    assert license_metadata(stated) == fields
    ours = records_of(judged_run)
    ours.args = ours.args.replace(data_license=stated)
    card = model_card(ours)
    assert {name: value for name, value in card.data.to_dict().items() if name.startswith("license")} == fields
    text = section(card.text, "License")
    assert ("No license is stated for the songs" in text) == (not fields)
    assert "under Apache-2.0" in text


def test_a_license_can_be_stated_after_a_run_is_complete(tmp_path):
    assert train(output_dir=tmp_path / "run").returncode == 0
    assert "license" not in ModelCard.load(tmp_path / "run" / "README.md").data.to_dict()
    result = train(output_dir=tmp_path / "run", data_license="cc-by-4.0")
    assert "is complete" in result.stdout
    assert ModelCard.load(tmp_path / "run" / "README.md").data.license == "cc-by-4.0"


class Machine:
    """The parts of an `Accelerator` that the record reads."""

    num_processes = 1

    class device:
        type = "cpu"


def test_a_start_with_other_versions_is_recorded_and_one_that_left_nothing_is_forgotten(tmp_path, monkeypatch):
    def start(step, version, **changed):
        monkeypatch.setattr(environment, "known_version", lambda package: version)
        note_start(tmp_path, Machine, step, **{"max_steps": 100, "eval_interval": 10} | changed)
        return [
            (entry["from_step"], entry["packages"]["torch"], entry["max_steps"]) for entry in read_environment(tmp_path)
        ]

    assert start(0, "1") == [(0, "1", 100)]
    assert start(0, "2") == [(0, "2", 100)]
    assert start(40, "2") == [(0, "2", 100)]
    assert start(60, "3") == [(0, "2", 100), (60, "3", 100)]
    assert start(50, "2") == [(0, "2", 100)]
    assert start(100, "2", max_steps=200) == [(0, "2", 100), (100, "2", 200)]
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(LyricGPTError, match=r"environment\.json is damaged"):
        read_environment(tmp_path)


def test_a_run_whose_settings_changed_says_when(judged_run):
    ours = records_of(judged_run)
    later = ours.environment[0] | {"from_step": 10, "max_steps": 4321}
    ours.environment = [ours.environment[0], later]
    text = section(str(model_card(ours)), "Reproduce")
    assert "Some settings were changed during the training" in text
    assert "from step 10 on" in text and "`max_steps` 4,321" in text


def test_the_recorded_packages_are_ones_that_the_project_needs():
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(PACKAGES) <= {re.split("[<>=]", line)[0] for line in needed}


def test_a_dataset_of_the_hub_keeps_its_name_when_a_run_is_shared(judged_run):
    values = json.loads(json.dumps(load_arguments(judged_run / "run.yaml").to_dict()))
    name = "you/songs:en:train"
    shared = Arguments(**shareable_settings(values | {"dataset": name}, frozenset([name])))
    assert shared.dataset == name
    assert shareable_settings(values, frozenset())["dataset"] == TINY["dataset"].name
    ours = records_of(judged_run)
    ours.args = shared
    assert not has_public_dataset(ours)  # it may be the name of a folder that is gone
    ours.corpus["files"][0] |= {"name": name, "kind": "hub"}
    card = model_card(ours, "you/model")
    assert card.data.datasets == ["you/songs"]
    assert "in a clone of LyricGPT:" in card.text
