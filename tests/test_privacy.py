"""A push sends nothing that the user did not mean to publish, whatever the run folder holds."""

import getpass
import json
import shutil
import socket
from pathlib import Path

import pytest
from conftest import PROJECT, options, python
from PIL import Image, PngImagePlugin
from test_bad_input import assert_refused
from test_train import assert_succeeds

from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import load_arguments
from training_lyricgpt.hub.privacy import SHORTEST_NAME, Machine, check_private, cut, find_secret, this_machine
from training_lyricgpt.hub.staging import stage

# One of each kind. None is real, and each is in two parts so that secret scanners don't find it in the repository.
SECRETS = {
    "Hugging Face": "hf_" + "aB3" * 11 + "x",
    "OpenSSH key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "RSA key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "PKCS #8": "-----BEGIN " + "PRIVATE KEY-----",
    "encrypted key": "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----",
    "PGP": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
    "PuTTY": "PuTTY-User-Key-File-" + "3: ssh-ed25519",
    "age": "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2,
    "AWS": "AKIA" + "IOSFODNN7EXAMPLQ",
    "GitHub": "ghp_" + "aB3d" * 9,
    "GitHub, fine-grained": "github_pat_" + "11AB" * 10,
    "GitLab": "glpat-" + "aB3d" * 5,
    "Slack": "xoxb-" + "123456789012-1234567890123-" + "aB3d" * 6,
    "OpenAI": "sk-proj-" + "aB3d" * 10,
    "Anthropic": "sk-ant-api03-" + "aB3d" * 10,
    "Google": "AIza" + "aB3d-" * 7,
    "Stripe": "sk_live_" + "aB3d" * 6,
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + "aB3d" * 20,
    "npm": "//registry.npmjs.org/:_authToken=npm_" + "aB3d" * 9,
    "JWT": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "password in an address": "https://anna:" + "s3cr3tpassw0rd" + "@example.org/songs.csv",
    "SendGrid": "SG." + "aB3d" * 5 + "ab." + "aB3d" * 10 + "abc",
    "Telegram": "1234567890:" + "aB3d-" * 7,
}

ANNA = Machine(["/home/annalena/my songs", "/home/annalena"], ["annalena"], ["annas-laptop"])


@pytest.fixture
def copy(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / "run"


def dry_run(folder, *arguments, **environment):
    return python("push_to_hub.py", folder, "you/x", "--dry_run", *arguments, **environment)


def staged(folder, tmp_path):
    """Stages a run in this process, and returns the folder that would be sent."""
    stage(folder, "you/x", tmp_path / "staged")
    return tmp_path / "staged"


def assert_not_staged(folder, tmp_path, *parts):
    """Asserts that a run is refused, and returns the one-line reason."""
    with pytest.raises(LyricGPTError) as refused:
        staged(folder, tmp_path)
    message = str(refused.value)
    assert all(part in message for part in parts) and "\n" not in message and len(message) < 1000, message
    return message


def sent_folder(result):
    assert_succeeds(result)
    return Path(result.stdout.split("a copy is in ")[1].splitlines()[0])


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def change_rows(path, edit):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        edit(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ----------------------------------------------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_secrets_of_common_kinds_are_found_anywhere_in_a_text(secret):
    for text in (secret, f"la la\n{secret}\nla", f'{{"a": "{secret}"}}', f"token={secret}"):
        assert find_secret(text), text


def test_songs_code_and_records_hold_no_secret(tiny_run):
    texts = [
        PROJECT / "data" / "sample_lyrics.csv",
        PROJECT / "README.md",
        *tiny_run.glob("*.json"),
        *tiny_run.glob("*.py"),
    ]
    for path in texts:
        assert find_secret(path.read_text(encoding="utf-8")) is None, path


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "run.yaml"])
def test_a_secret_in_any_file_of_a_run_is_refused_and_not_shown(copy, tmp_path, name):
    secret = SECRETS["Hugging Face"]
    if name == "metrics.jsonl":
        change_rows(copy / name, lambda row: row.update(sample=f"la\n{secret} la"))
    elif name == "environment.json":
        change(copy / name, lambda entries: entries[0].update(device_name=secret))
    else:
        (copy / name).write_text((copy / name).read_text().replace("data_license: null", f"data_license: {secret}"))
    message = assert_not_staged(copy, tmp_path, "would contain an access token in line ")
    assert secret not in message


def test_a_secret_is_found_after_any_character_and_in_escaped_or_folded_yaml(copy, tmp_path):
    secret = SECRETS["Hugging Face"]
    for text in (f"x_{secret}", f"a\\n{secret}", f"ü{secret}", f"é{secret}ü"):
        assert find_secret(text), text
    for prompt in (f"\a{secret}", "x " * 36 + SECRETS["RSA key"]):  # written as an escape, and folded over two lines
        args = load_arguments(copy / "run.yaml").replace(sample_prompt=prompt)
        args.save(copy / "run.yaml")
        assert_not_staged(copy, tmp_path, "would contain")
    (tmp_path / "run.yaml").write_text("a: " + args.sample_prompt.replace("RSA ", "RSA\n  "))
    with pytest.raises(LyricGPTError, match=r"run.yaml would contain a private key"):
        check_private(tmp_path, ANNA)


def test_songs_that_look_like_secrets_pass_and_are_checked_quickly():
    song = "boots and cats: sk-boom-sk-boom-sk-boom-sk-boom-sk\nxai-la-xai-la-xai-la-xai-la\nE" + "A" * 90 + "H!\n"
    assert find_secret(song + "BEGIN " * 20_000 + "xai-" * 20_000 + "sk-" * 20_000) is None
    assert find_secret("la" * 5000 + " " + SECRETS["JWT"] + "la" * 5000)


def test_the_users_own_token_is_found_whatever_it_looks_like_and_not_shown(copy):
    change_rows(copy / "metrics.jsonl", lambda row: row.update(sample="my-own-strange-token"))
    result = dry_run(copy, HF_TOKEN="my-own-strange-token")
    assert_refused(result, "would contain your Hugging Face token")
    assert "strange" not in result.stdout + result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Files are what their names say, and are written again


def test_unexpected_content_of_a_run_folder_is_not_sent(copy, tmp_path):
    secret = b"the private diary of annalena"
    for name in ("curves.png", "samples.txt", "README.md", "diary.txt", "notes.json", "model.safetensors.bak"):
        (copy / name).write_bytes(secret)
    change(copy / "corpus.json", lambda corpus: corpus.update(diary=secret.decode()))
    change(copy / "environment.json", lambda entries: entries[0].update(diary=[secret.decode()]))
    change_rows(copy / "metrics.jsonl", lambda row: row.update(diary=secret.decode()))
    for name in SETTINGS:
        change(copy / name, lambda settings: settings.update({secret.decode(): 1, "diary": secret.decode()}))
    pattern = {"type": "Replace", "pattern": {"String": secret.decode()}, "content": secret.decode()}
    change(copy / "tokenizer.json", lambda settings: settings.update(normalizer=pattern))
    change(copy / "environment.json", lambda entries: entries[0]["packages"].update({"annalena": "1"}))
    change(copy / "corpus.json", lambda corpus: corpus["cleaning_removed"].update({"annalena": 1}))
    folder = staged(copy, tmp_path)
    for path in folder.iterdir():
        assert b"annalena" not in path.read_bytes(), path
        assert secret not in path.read_bytes(), path
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG" and set(picture.info) <= {"dpi"}


SETTINGS = ["config.json", "tokenizer_config.json", "generation_config.json"]
NOT_WHAT_THEY_SAY = {
    "curves.png": [b"-----BEGIN", b"\x89PNG\r\n\x1a\n", b"GIF89a", b""],
    "metrics.jsonl": [b"{", b"\xff", b"[" * 100_000],
    "run.yaml": [b"- 1", b"a: [", b"\xff"],
    "config.json": [b"{", b"[" * 100_000],
    "model.safetensors": [b"", b"\xff" * 100],
    "README.md": [b"\xff"],
    "id_ed25519": [b"x"],
    "songs.csv": [b"x"],
}


@pytest.mark.parametrize("name", NOT_WHAT_THEY_SAY)
def test_a_file_that_is_not_what_its_name_says_is_not_sent(tmp_path, name):
    for content in NOT_WHAT_THEY_SAY[name]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LyricGPTError, match="can't be published"):
            check_private(tmp_path, ANNA)


def test_metadata_of_pictures_and_weights_is_checked(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("Author", SECRETS["GitHub"], zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "curves.png", pnginfo=note)
    with pytest.raises(LyricGPTError, match=r"curves\.png would contain"):
        check_private(tmp_path, ANNA)
    (tmp_path / "curves.png").unlink()
    header = json.dumps({"__metadata__": {"note": "/home/annalena/x"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LyricGPTError, match=r"model\.safetensors would contain a path of this machine"):
        check_private(tmp_path, ANNA)


RECORDS = ["corpus.json", "environment.json", "quality.json", "songs.json", "metrics.jsonl"]
DAMAGE = {
    "another type": "7",
    "a list": "[[]]",
    "too deep": "[" * 200_000 + "]" * 200_000,
    "an enormous number": '{"step": ' + "9" * 10_000 + "}",
    "not a number": '{"step": NaN, "from_step": NaN}',
    "half a surrogate pair": '{"step": 0, "sample": "\\ud800"}',
    "no JSON": "{",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", RECORDS)
def test_an_odd_record_gives_a_one_line_error_that_names_the_file(copy, tmp_path, name, damage):
    (copy / name).write_text(damage)
    assert_not_staged(copy, tmp_path, name)


ODD_VALUES = {
    "config.json": {
        "norm_eps": "x", "max_position_embeddings": 64.5, "num_hidden_layers": 2.0, "hidden_act": ["a"], "dtype": "os", "use_cache": "x",
        "rope_parameters": {"rope_theta": "x"}, "variant": ["modern"], "hidden_dropout": 2, "vocab_size": "64", "layer_types": 5,
        "intermediate_size": -1, "num_attention_heads": 10**30, "initializer_range": None, "hidden_size": 3,
    },
    "generation_config.json": {
        "temperature": "x", "top_k": -5, "max_new_tokens": "x", "suppress_tokens": [9999], "bos_token_id": 9999, "eos_token_id": "x",
    },
    "tokenizer_config.json": {"song_template": "{% if"},
    "tokenizer.json": {"model": {"vocab": {"ab": 0}}},
    "corpus.json": {"tokens": {}, "songs_in": [], "files": [], "text_column": "\ud800", "near_duplicates": {}},
    "model.safetensors.index.json": {"weight_map": {"x": "../../x.safetensors"}},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_VALUES)
def test_an_odd_value_gives_a_one_line_error_that_names_the_file(copy, tmp_path, name):
    text = (copy / name).read_text() if (copy / name).exists() else "{}"
    for key, value in ODD_VALUES[name].items():
        (copy / name).write_text(json.dumps({**json.loads(text), key: value}))
        assert_not_staged(copy, tmp_path, name)


def test_an_odd_figure_gives_a_one_line_error_or_is_accepted(copy, tmp_path):
    text = (copy / "metrics.jsonl").read_text()
    for name, value in (("val_loss", 1e308), ("step", 2**63), ("elapsed_seconds", "x"), ("val_accuracy", 1.5)):
        change_rows(copy / "metrics.jsonl", lambda row, name=name, value=value: row.update({name: value}))
        assert_not_staged(copy, tmp_path, "metrics.jsonl is damaged in line 1", name)
        (copy / "metrics.jsonl").write_text(text)
    (copy / "metrics.jsonl").write_text("")
    assert_not_staged(copy, tmp_path, "metrics.jsonl has no evaluation")
    (copy / "metrics.jsonl").write_text(text)
    change_rows(copy / "metrics.jsonl", lambda row: row.update(elapsed_seconds=0, sample="a\u2028b\x85c"))
    change(copy / "corpus.json", lambda corpus: corpus.update(songs_in={}, remarks=[""]))
    staged(copy, tmp_path)


def test_a_record_that_is_far_too_large_is_not_read(copy, tmp_path):
    with (copy / "environment.json").open("ab") as file:
        file.truncate(1 << 33)  # sparse: it takes no space
    assert_not_staged(copy, tmp_path, "environment.json is not a record of a run: it has 8,589,934,592 bytes")


@pytest.mark.parametrize(
    "line",
    [
        "sample_prompt: [1, 2]", "sample_prompt: {a: b}", "sample_prompt: &a [*a]", "sample_prompt: " + "[" * 20_000,
        "compile: !!bool xyz", "dataset: !!timestamp xyz", "seed: !!int ''", "dataset: !!binary eA==", 'output_dir: "a\\0b"',
        'sample_prompt: "\\ud800"', "batch_size: 0", "batch_size: -3", "eval_batches: 1000000000000000", "seed: -1", "max_steps: -1",
        "learning_rate: .nan", "decay_fraction: .inf", "split_seed: 0x" + "f" * 9000, "encoding: null", "dataset: null",
    ],
)  # fmt: skip
def test_invalid_settings_give_a_one_line_error(copy, tmp_path, line):
    with (copy / "run.yaml").open("a") as file:  # the last value of a key counts
        file.write(line + "\n")
    assert_not_staged(copy, tmp_path)


# ----------------------------------------------------------------------------------------------------------------------
# Paths, users, hosts


CLEANED = {
    "/home/annalena/lyrics.csv": "lyrics.csv",
    "/home/annalena/my songs/all my lyrics.csv": "all my lyrics.csv",
    "~/songs/lyrics.csv": "lyrics.csv",
    r"C:\Users\Anna Lena\lyrics.csv": "lyrics.csv",
    r"\\server\share\lyrics.csv": "lyrics.csv",
    "file:///home/annalena/lyrics.csv": "lyrics.csv",
    "/mnt/disk/a/b.csv is separated by ';'": "b.csv is separated by ';'",
    "see (/data/songs/a.csv) and '/data/songs/b.csv'": "see (a.csv) and 'b.csv'",
    "annalena-lyrics.csv": "user-lyrics.csv",
    "AnnaLena's processor on annas-laptop": "user's processor on host",
    "Intel(R) Xeon(R) and/or AMD, AC/DC 24/7": "Intel(R) Xeon(R) and/or AMD, AC/DC 24/7",
    "https://example.org/a/b": "https://example.org/a/b",
    "annalena2024.csv": "user2024.csv",
    "songsOfAnnalena.csv": "songsOfuser.csv",
    "annalenaSongs.csv": "userSongs.csv",
    "zip:/mnt/disk/a.csv, at=/mnt/disk and é/mnt/disk/b.csv": "zip:a.csv, at=disk and éb.csv",
    "https://example.org/home/annalena2": "https://example.org/home/user2",
    "annalenas.csv": "annalenas.csv",
    "Mr. Annalenason": "Mr. Annalenason",
}


@pytest.mark.parametrize("text", CLEANED)
def test_a_cleaned_field_keeps_the_last_part_of_a_path_and_no_name_of_a_user_or_host(text):
    assert ANNA.clean(text) == CLEANED[text]


@pytest.mark.parametrize(
    "text",
    [
        "at /home/annalena/x", "/home/somebody/x", "/Users/somebody/x", r"C:\Users\somebody", "C:\\\\Users\\\\somebody", "annalena@example.org",
        "root@annas-laptop", "http://annas-laptop:8080/", "ssh://me@annas-laptop/x", "http://annas-laptop.local/",
    ],
)  # fmt: skip
def test_paths_and_addresses_that_name_a_user_or_host_are_found(text):
    assert ANNA.found_in(text)
    assert not ANNA.found_in("annalena sings at home; and/or @annalena, https://huggingface.co/annalena/songs /usr")
    assert not ANNA.found_in("https://annas-laptop.org/home/terms, https://example.org/home/annalena/x")


def test_common_user_and_host_names_are_ignored(monkeypatch):
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("LOGNAME", "io")
    monkeypatch.setenv("HOSTNAME", "localhost")
    machine = this_machine(Path("run"))
    assert not {"root", "io"} & set(machine.users) and "localhost" not in machine.hosts
    for name in ("csv", "utf", "song", "Intel"):  # words that occur in anybody's fields
        monkeypatch.setenv("USER", name)
        assert this_machine(Path("run")).clean("song.csv in utf-8 by Intel") == "song.csv in utf-8 by Intel"


def test_paths_to_the_data_are_removed(tmp_path):
    named = ("/mnt/my private disk/a b/songs.csv", None, r"C:\my runs\x")
    machine = this_machine(tmp_path, named)
    assert machine.clean("zip:/mnt/my private disk/a b/songs.csv is odd") == "zip:songs.csv is odd"
    assert machine.clean(r"odd: C:\my runs\x") == "odd: x"


@pytest.mark.parametrize("output_dir", [".", "..", "./", "runs/.."])
def test_a_run_whose_output_dir_has_no_name_is_named_after_its_folder(copy, tmp_path, monkeypatch, output_dir):
    (tmp_path / "annalena" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "annalena" / "deeper")
    monkeypatch.setenv("USER", "annalena")
    load_arguments(copy / "run.yaml").replace(output_dir=output_dir).save(copy / "run.yaml")
    folder = staged(copy, tmp_path)
    assert "\n# lyricgpt-run\n" in (folder / "README.md").read_text()
    for path in folder.glob("*.*"):
        assert b"annalena" not in path.read_bytes() and b"deeper" not in path.read_bytes(), path


def test_a_stated_license_is_cleaned_like_any_field(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "annalena")
    stated = "of annalena, see /mnt/private/terms.txt and https://example.org/home/terms"
    load_arguments(copy / "run.yaml").replace(data_license=stated).save(copy / "run.yaml")
    card = (staged(copy, tmp_path) / "README.md").read_text()
    assert "of user, see terms.txt and https://example.org/home/terms" in card and "annalena" not in card


def test_a_machine_that_is_named_like_a_website_can_publish(copy, tmp_path, monkeypatch):
    for host in ("arxiv", "huggingface", "github"):  # our own code and card mention these
        monkeypatch.setenv("HOSTNAME", host)
        shutil.rmtree(staged(copy, tmp_path))


def test_names_of_machine_and_user_are_removed_from_every_record_but_not_from_songs(copy):
    host = "annas-laptop"
    change(copy / "environment.json", lambda entries: entries[0].update(device_name=f"CPU of annalena on {host}"))
    change(copy / "corpus.json", lambda corpus: corpus.update(remarks=["/home/annalena/x.csv is separated by ';'"]))
    change(copy / "corpus.json", lambda corpus: corpus["files"][0].update(name="annalena.csv"))
    song = "annalena went to\n/home/annalena/songs, annalena@annas-laptop"
    change_rows(copy / "metrics.jsonl", lambda row: row.update(sample=song))
    text = (copy / "run.yaml").read_text()
    text = text.replace(f"dataset: {PROJECT / 'data' / 'sample_lyrics.csv'}", "dataset: /home/annalena/annalena.csv")
    (copy / "run.yaml").write_text(text)
    result = dry_run(copy, USER="annalena", HOME="/home/annalena", HOSTNAME=host)
    folder = sent_folder(result)
    for path in (path for path in folder.iterdir() if path.suffix in (".json", ".yaml")):
        assert "annalena" not in path.read_text() and host not in path.read_text(), path
    assert song in (folder / "samples.txt").read_text() and json.dumps(song) in (folder / "metrics.jsonl").read_text()
    card = (folder / "README.md").read_text()
    assert (
        "CPU of user on host" in card
        and song in card
        and "annalena" not in card.replace(song, "").replace("annalena went to", "")
    )
    assert "\n- X.csv is separated by ';'." in card
    assert "  corpus.json: files[0].name: 'annalena.csv' is sent as 'user.csv'" in result.stdout
    assert "  run.yaml: dataset: 'user.csv'" in result.stdout
    for name in ("corpus.json", "environment.json", "metrics.jsonl"):  # the run itself does not change
        assert "annalena" in (copy / name).read_text()


# ----------------------------------------------------------------------------------------------------------------------
# What a dry run lists


def test_a_dry_run_lists_every_file_and_every_field_about_the_user(tiny_run):
    result = dry_run(tiny_run)
    folder = sent_folder(result)
    listed = {line.split(" bytes  ")[1] for line in result.stdout.splitlines() if " bytes  " in line}
    assert listed == {path.name for path in folder.iterdir()}
    corpus, (start,) = (json.loads((folder / name).read_text()) for name in ("corpus.json", "environment.json"))
    for line in (
        f"corpus.json: files[*].name: '{corpus['files'][0]['name']}'",
        f"corpus.json: files[*].sha256: {cut(corpus['files'][0]['sha256'])}",
        f"corpus.json: songs: {corpus['songs']}",
        "corpus.json: alphabet_characters: ",
        f"environment.json: device_name: '{start['device_name']}'",
        f"environment.json: system: '{start['system']}'",
        f"environment.json: threads: {start['threads']}",
        f"environment.json: packages.torch: '{start['packages']['torch']}'",
        "metrics.jsonl: elapsed_seconds: ",
        "metrics.jsonl: sample: ",
        "run.yaml: dataset: 'sample_lyrics.csv'",
        "run.yaml: output_dir: 'tiny'",
    ):
        assert f"\n  {line}" in result.stdout, line


def test_what_is_sent_names_nothing_of_this_machine(tiny_run, tmp_path):
    folder = staged(tiny_run, tmp_path)
    names = {getpass.getuser(), socket.gethostname(), Path.home().name, str(tiny_run.parent), str(Path.cwd())}
    # Shorter names occur in a picture by chance.
    names = {name for name in names - {"root"} if len(name) >= SHORTEST_NAME}
    for path in folder.iterdir():
        for name in names:
            assert name.encode() not in path.read_bytes(), (path, name)


def test_a_folder_that_a_run_started_from_is_not_taken_for_a_hub_model_when_it_is_gone(tiny_run, tmp_path):
    """Its name looks like that of a model on the Hub."""
    (tmp_path / "somebody").mkdir()
    shutil.copytree(tiny_run, tmp_path / "somebody" / "model")
    values = {"config": PROJECT / "tests" / "tiny.yaml", "dataset": PROJECT / "data" / "sample_lyrics.csv"}
    start = options(**values, init_from="somebody/model", output_dir="run", max_steps=2)
    assert_succeeds(python(PROJECT / "train_hf.py", *start, cwd=tmp_path))
    shutil.rmtree(tmp_path / "somebody")
    assert_succeeds(python(PROJECT / "train_hf.py", *start[:-1], "--max_steps=3", cwd=tmp_path))
    folder = staged(tmp_path / "run", tmp_path)
    for path in folder.glob("*.*"):
        assert b"somebody" not in path.read_bytes(), path
    assert "another model" in (folder / "README.md").read_text()
    assert "init_from: model\n" in (folder / "run.yaml").read_text()
