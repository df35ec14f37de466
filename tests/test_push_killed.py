"""If a push is killed, the same command finishes it, with one commit of that content and the proof that it loads."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import PROJECT
from test_push import push_to

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "path", "cut", "committed"),
    [
        pytest.param("PUT", "^/lfs/", "request", 0, id="while the weights are sent"),
        pytest.param("POST", "/commit/", "request", 0, id="while the commit is sent"),
        pytest.param("POST", "/commit/", "response", 1, id="before the commit's answer is read"),
    ],
)
def test_a_push_that_was_killed_resumes_when_it_is_started_again(tiny_run, hub, method, path, cut, committed):
    pushing = []
    hub.fault(path, method=method, cut=cut, at_cut=lambda: pushing[0].kill())
    environment = os.environ | hub.client | {"HF_TOKEN": hub.token(), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "push_to_hub.py", tiny_run, "you/tiny"]
    pushing.append(subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE))
    pushing[0].communicate(timeout=120)
    assert pushing[0].returncode == -signal.SIGKILL
    assert len(hub.commits("you/tiny")) == committed
    sent_before = set(hub.uploaded)

    result = push_to(hub, tiny_run, "you/tiny")
    assert result.returncode == 0, result.stderr
    assert "the model loads in a fresh process; sample:" in result.stdout
    (commit,) = hub.commits("you/tiny")
    assert ("already has these files" in result.stdout) == bool(committed)
    assert set(commit.files) - {".gitattributes"} == {file.name for file in tiny_run.iterdir()} - {"checkpoints"}
    puts = [path.split("/")[-1] for method, path in hub.requests if method == "PUT"]
    assert [puts.count(oid) for oid in sent_before] == [1] * len(sent_before), "what had arrived was sent twice"
