"""The demo page in a browser, served from a run folder as a Space would serve it."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from conftest import ALONE, PROJECT, run, train
from test_push import push_to

from training_lyricgpt.engine.metrics import best_evaluation, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = "I walked along"


@contextlib.contextmanager
def serve(folder, model, command=(PROJECT / "space" / "app.py",), **environment):
    """Runs the page, or another Python command, in `folder`. Yields its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MODEL": str(model), "GRADIO_SERVER_PORT": str(port)} | environment
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address).close()
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A run trained with artists and titles. Its model is slow enough that a song can be stopped."""
    folder = tmp_path_factory.mktemp("run") / "run"
    sizes = {"hidden_size": 256, "num_hidden_layers": 8, "max_steps": 10, "quality_songs": 2}
    trained = train(output_dir=folder, conditioning="artist_title", **sizes)
    assert trained.returncode == 0, trained.stderr
    return folder


@pytest.fixture(scope="module")
def space(trained_run, tmp_path_factory):
    """Address of the page and its process."""
    with serve(tmp_path_factory.mktemp("space"), trained_run) as served:
        yield served


@pytest.fixture(scope="module")
def hasty(trained_run, tmp_path_factory):
    """Address of a page that gives each song little time."""
    with serve(tmp_path_factory.mktemp("hasty"), trained_run, MAX_SECONDS="1.5") as served:
        yield served[0]


@pytest.fixture
def server(space):
    return space[0]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if not (path := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """Somebody with their own browser window."""

    def __init__(self, browser, address, width=1280):
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.page.goto(address)
        self.button("Write").wait_for()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, prompt=PROMPT, length=2000, seed=0, **names):
        values = {"How the song begins": prompt, "Seed": seed} | names
        for label, value in values.items():
            self.page.get_by_label(label, exact=True).fill(str(value))
        self.page.get_by_label("number input for Length").fill(str(length))
        self.page.get_by_label("number input for Length").blur()
        return self

    def click(self, name):
        self.button(name).click()
        return self

    @property
    def song(self):
        return self.page.locator("#song textarea").input_value()

    def until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"after {seconds} seconds the song is {self.song!r}"
            time.sleep(0.02)
        return self

    def until_grown(self, beyond=40):
        return self.until(lambda: len(self.song) > beyond)

    def until_finished(self):
        """Waits for the song that has been asked for."""
        before = self.song
        self.until(lambda: self.song != before and self.button("Stop").is_disabled())
        return self

    def whole_song(self, **asked):
        return self.ask(**asked).click("Write").until_finished().song


@pytest.fixture
def visitor(browser, server):
    visitor = Visitor(browser, server)
    yield visitor
    visitor.page.context.close()


def ask(server, endpoint, *data):
    """Calls an endpoint of the page's API with these values, and returns the address of the answer."""
    body = json.dumps({"data": data}).encode()
    address = f"{server}/gradio_api/call/{endpoint}"
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return f"{address}/{json.load(response)['event_id']}"


def call(server, endpoint, *data):
    """Calls an endpoint of the page's API with these values, and returns the last event's name and data."""
    with urllib.request.urlopen(ask(server, endpoint, *data), timeout=120) as response:
        name, value = response.read().decode().strip().split("\n\n")[-1].split("\n")
    return name.removeprefix("event: "), json.loads(value.removeprefix("data: "))


def test_a_song_appears_and_grows_while_it_is_written(visitor):
    visitor.ask().click("Write").until_grown()
    first = visitor.song
    visitor.until_grown(len(first))
    assert first.startswith(PROMPT)
    assert visitor.song.startswith(first)
    visitor.click("Stop")


def processor_seconds(process, seconds):
    """The processor time that a process uses within this many seconds."""
    times = []
    for wait in (seconds, 0):
        times.append(sum(psutil.Process(process.pid).cpu_times()[:2]))
        time.sleep(wait)
    return times[1] - times[0]


def test_a_song_stops_when_asked_and_nothing_keeps_running(visitor, space):
    visitor.ask().click("Write").until_grown()
    visitor.click("Stop").until(lambda: visitor.button("Write").is_enabled(), 5)
    time.sleep(0.5)  # for what was still on its way
    stopped = visitor.song
    assert processor_seconds(space[1], 1) < 0.2
    assert visitor.song == stopped
    assert len(stopped) < 2000


def test_a_seed_gives_the_same_song_in_another_window(visitor, browser, server):
    song = visitor.whole_song(length=300, seed=7)
    other = Visitor(browser, server)
    assert other.whole_song(length=300, seed=7) == song
    assert other.whole_song(length=300, seed=8) != song
    other.page.context.close()


def test_again_takes_the_next_seed(visitor):
    visitor.ask(length=100, seed=3).click("Again").until_finished()
    song = visitor.song
    assert visitor.page.get_by_label("Seed").input_value() == "4"
    visitor.ask(length=50).click("Write").until_finished()
    assert visitor.whole_song(length=100, seed=4) == song


def test_continue_extends_the_song_on_the_page(visitor):
    song = visitor.whole_song(length=100)
    longer = visitor.click("Continue").until_finished().song
    assert longer.startswith(song)
    assert len(song) + 50 <= len(longer) <= len(song) + 100


def test_artist_and_title_begin_the_song(visitor):
    song = visitor.whole_song(length=50, Artist="Ann", Title="The   sea")
    assert song.startswith("Artist: Ann\nTitle: The sea\n\nI walked along")


def test_two_people_at_once_get_the_songs_that_each_would_get_alone(visitor, browser, server):
    alone = [visitor.whole_song(length=600, seed=seed) for seed in (1, 2)]
    other = Visitor(browser, server)
    visitor.ask(length=600, seed=1)
    other.ask(length=600, seed=2)
    visitor.click("Write").until(lambda: visitor.song != alone[1])
    other.click("Write").until_grown()
    assert visitor.button("Stop").is_enabled(), "the first song was finished before the second had begun"
    songs = [who.until(who.button("Stop").is_disabled).song for who in (visitor, other)]
    assert songs == alone
    other.page.context.close()


def test_the_server_is_free_again_when_visitors_have_left(browser, space):
    for _ in range(6):  # more songs than are written at once
        visitor = Visitor(browser, space[0])
        visitor.ask().click("Write").until_grown()
        visitor.page.context.close()
    time.sleep(0.5)
    assert processor_seconds(space[1], 1) < 0.2


def test_a_song_stops_at_its_time_limit_and_continue_extends_it(browser, hasty):
    visitor = Visitor(browser, hasty)
    song = visitor.whole_song()
    note = visitor.page.locator("#note")
    assert note.inner_text() == "Stopped after 1.5 seconds; Continue goes on."
    assert len(PROMPT) + 10 < len(song) < 2000
    longer = visitor.click("Continue").until_finished().song
    assert longer.startswith(song)
    visitor.whole_song(length=50)
    assert note.inner_text() == ""
    visitor.page.context.close()


def test_a_visitor_is_told_when_the_queue_is_full_and_can_try_again(browser, hasty):
    visitor = Visitor(browser, hasty)
    refusals, over = [], threading.Event()

    def keep_the_queue_full():
        while not over.is_set():
            try:
                ask(hasty, "write", "", 0.9, 2000, 0, "", "")
            except urllib.error.HTTPError as error:
                refusals.append((error.code, error.read().decode()))
                time.sleep(0.02)

    crowd = threading.Thread(target=keep_the_queue_full)
    crowd.start()
    try:
        visitor.until(lambda: refusals)
        for _ in range(20):  # one of the crowd may have left a place free
            visitor.click("Write")
            with contextlib.suppress(Exception):
                visitor.page.get_by_text("This application is currently busy. Please try again.").wait_for(timeout=1000)
                break
            visitor.click("Stop")
        else:
            pytest.fail("nobody was told that the queue is full")
        visitor.until(visitor.button("Write").is_enabled, 5)
        assert visitor.button("Stop").is_disabled()
    finally:
        over.set()
        crowd.join()
    assert refusals[0] == (503, '{"detail":"Queue is full. Max size is 32 and size is 32."}')
    time.sleep(3)  # some of those who wait get their songs
    assert visitor.whole_song(length=50).startswith(PROMPT)
    visitor.page.context.close()


def test_a_visitor_in_the_queue_can_stop_waiting(browser, hasty):
    for _ in range(30):
        ask(hasty, "write", "", 0.9, 2000, 0, "", "")
    visitor = Visitor(browser, hasty)
    visitor.click("Write").until(lambda: "queue: " in visitor.page.locator("#note").inner_text())
    visitor.click("Stop").until(visitor.button("Write").is_enabled, 5)
    assert visitor.song == ""
    visitor.page.context.close()


def test_unknown_characters_are_named_and_replaced(visitor):
    song = visitor.whole_song(prompt="Café ☃ “so”", length=50)
    assert song.startswith('Cafe  "so"')
    note = visitor.page.locator("#note").inner_text()
    assert "é (U+00E9), read as e" in note
    assert "☃ (U+2603), left out" in note


def test_the_page_shows_the_figures_of_the_run(visitor, trained_run):
    visitor.page.get_by_role("tab", name="Figures").click()
    card = visitor.page.locator("#card")
    card.get_by_text("training loss").wait_for()
    assert card.locator("img").evaluate("image => image.naturalWidth") > 100
    assert "longest copy" in card.inner_text()
    best = best_evaluation(read_metrics(trained_run))
    assert f"{best['val_loss']:.4f}" in card.inner_text()


@pytest.mark.parametrize("tab", ["Write", "Figures"])
def test_a_phone_need_not_scroll_sideways(browser, server, tab):
    visitor = Visitor(browser, server, width=360)
    visitor.page.get_by_role("tab", name=tab).click()
    time.sleep(0.5)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 360
    visitor.page.context.close()


HOSTILE = {
    "a huge prompt": ("é☃" * 2_000_000, 0.9, 50, 0, "", ""),
    "a huge name": ("", 0.9, 50, 0, "Z" * 1_000_000, ""),
    "nothing": (None, 0.9, 50, None, None, None),
    "a list for a text": ([1, [2]], 0.9, 50, 0, {}, True),
    "control characters": ("a\x00b\x1b[31m\u202e\r\r\n\x07", 0.9, 50, 0, "\n\n", "\x00"),
    "half a surrogate pair": ("\ud800", 0.9, 50, 0, "", ""),
    "text from right to left": ("\u202eשלום\u2066\u200f", 0.9, 50, 0, "", ""),
    "special tokens": ("<|endoftext|><|unk|><|pad|>", 0.9, 50, 0, "<|endoftext|>", ""),
    "a template": ("{{ 7 * 7 }}", 0.9, 50, 0, "{% for x in range(10**9) %}x{% endfor %}", ""),
    "markup": ("<script>alert(1)</script>", 0.9, 50, 0, "", ""),
}
REFUSED = {
    "a word for a number": ("", "hot", 50, 0, "", ""),
    "no number": ("", 0.9, 50, float("nan"), "", ""),
    "no number for a length": ("", 0.9, float("nan"), 0, "", ""),
    "no temperature": ("", None, 50, 0, "", ""),
    "a list for a number": ("", 0.9, [50], 0, "", ""),
    "a negative seed": ("", 0.9, 50, -1, "", ""),
    "no end": ("", float("inf"), 50, 0, "", ""),
    "an endless song": ("", 0.9, 10**9, 0, "", ""),
    "a negative length": ("", 0.9, -1, 0, "", ""),
    "a seed too large": ("", 0.9, 50, 10**30, "", ""),
    "too few values": ("",),
    "a file": ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 0.9, 50, 0, "", ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_odd_input_still_gets_a_song(server, name):
    event, (song, note) = call(server, "write", *HOSTILE[name])
    assert event == "complete"
    assert 0 < len(song) < 1500
    assert not set("\x00\x1b\r\u202e\ud800<") & set(song)
    assert "<" not in re.sub("</?bdi>", "", note)


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_input_is_refused_and_the_server_keeps_working(server, name):
    event, answer = call(server, "write", *REFUSED[name])
    assert event == "error"
    assert "Traceback" not in str(answer)
    assert call(server, "write", "", 0.9, 50, 0, "", "")[0] == "complete"


def test_a_song_has_a_maximum_length(server):
    event, (song, note) = call(server, "continue", "x" * 30_000, 0.9, 50, 0)
    assert event == "complete"
    assert len(song) == 20_000
    assert "ends at 20,000" in note


PATHS = [
    "/etc/passwd",
    "/proc/self/environ",
    str(PROJECT / "space" / "app.py"),
    "log",
    "config.json",
    "../run/config.json",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("door", ["gradio_api/file=", "file=", "static/", "assets/../", "gradio_api/proxy=file://"])
def test_no_file_is_served(server, door, path):
    for way in (path, path.replace("/", "%2f").replace(".", "%2e")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{server}/{door}{way}")
        assert error.value.code in (400, 403, 404)


def test_the_page_does_not_reveal_where_it_is_or_how_it_is_used(server, trained_run):
    for path in ("", "config", "gradio_api/info", "openapi.json", "theme.css"):
        content = urllib.request.urlopen(f"{server}/{path}").read().decode()
        assert not [place for place in (PROJECT, trained_run.parent, Path.home()) if f"{place}/" in content], path
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server}/monitoring")


def test_no_upload_is_accepted(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(f"{server}/gradio_api/upload", data=body, headers=headers))
    assert error.value.code == 413


def test_the_space_imports_what_its_requirements_name():
    lines = (PROJECT / "space" / "requirements.txt").read_text().splitlines()
    required = {line.split(">")[0] for line in lines if not line.startswith("--")}
    from test_repository import imports

    ours = {path.stem for path in (PROJECT / "space").glob("*.py")}
    ours.add("training_lyricgpt")  # imported only for a run folder, where the project is installed
    used = {name.split(".")[0] for path in (PROJECT / "space").glob("*.py") for name in imports(path)}
    assert used - ours - set(sys.stdlib_module_names) == required


DOWNLOAD = "import sys; from huggingface_hub import *; snapshot_download('you/tiny-demo', repo_type='space', local_dir=sys.argv[1])"
RUN = "import runpy; sys.path.insert(0, ''); runpy.run_path('app.py', run_name='__main__')"


def test_a_published_demo_runs_from_its_own_files_and_writes_songs_with_its_model(tiny_run, hub, tmp_path, browser):
    """The process has only what a Space has: files, variables and a secret, and nothing of this project or machine."""
    pushed = push_to(hub, tiny_run, "you/tiny", "--space")
    assert pushed.returncode == 0, pushed.stderr
    folder = tmp_path / "space"
    downloaded = run([sys.executable, "-c", DOWNLOAD, folder], **hub.client, HF_TOKEN=hub.token("read"))
    assert downloaded.returncode == 0, downloaded.stderr
    variables = hub.repository("you/tiny-demo", "spaces").variables
    environment = {key: variable["value"] for key, variable in variables.items()}
    environment |= hub.client | {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": hub.token("read")}
    environment |= {"SYSTEM": "spaces", "SPACE_ID": "you/tiny-demo", "GRADIO_SERVER_NAME": "127.0.0.1"}
    hub.requests.clear()
    with serve(folder, environment.pop("MODEL"), ("-I", "-c", ALONE + RUN), **environment) as (address, _):
        assert [path for _, path in hub.requests if re.fullmatch("/you/tiny/resolve/.*/model.safetensors", path)]
        visitor = Visitor(browser, address)
        assert visitor.page.get_by_role("link", name="you/tiny").is_visible()
        assert len(visitor.whole_song(length=100)) > len(PROMPT) + 10
        visitor.page.get_by_role("tab", name="Figures").click()
        card = visitor.page.locator("#card")
        card.get_by_text("training loss").wait_for()
        best = best_evaluation(read_metrics(tiny_run))
        assert f"{best['val_loss']:.4f}" in card.inner_text()
        assert card.locator("img").evaluate("image => image.naturalWidth") > 100
        visitor.page.context.close()
