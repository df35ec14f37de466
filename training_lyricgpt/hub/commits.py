"""Talks to the Hub: checks who may write where, compares files, makes one commit, and reports errors in one line.

Notes:
- It compares the files on a branch with the files to send by Git's and LFS's own checksums. If they are equal, it makes no
  commit, so an interrupted push can simply be started again.
- The commit names its parent. If somebody else has committed in the meantime, the Hub refuses it.
- A new branch starts empty, from the repository's first commit, whatever is on `main`.
- The same functions handle models and Spaces. `repo_type` is the Hub's word for which of the two it is.
- If the Hub's rate limit was reached, it waits for as long as the Hub asks, within reason. It does not try a commit again if only
  the answer got lost, because the commit may have been made.
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff, logging, parse_ratelimit_headers

from .. import LyricGPTError
from ..files import hash_file, read_json
from ..terminal import program
from ..wording import plural

ATTEMPTS = 5
LONGEST_WAIT = 300  # seconds; the longest single wait for a rate limit
# Files that a push writes. If the branch has one that this push does not write, it belongs to another model.
WRITTEN = re.compile(r"\w+_lyricgpt\.py|model[\w.-]*\.safetensors(\.index\.json)?|(quality|songs|environment)\.json")
# The file that shows what a repository holds.
TELLING = {"model": "config.json", "space": "app.py"}
# Files that do not show what a repository holds.
NEUTRAL = (".gitattributes", "README.md", "LICENSE")


def seconds_asked(response: httpx2.Response) -> int | None:
    """Returns how many seconds the Hub asks a rate-limited client to wait; None if it does not say."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    asked = response.headers.get("Retry-After", "")
    return int(asked) if asked.isdigit() else None


def patiently(call: Callable, *arguments: Any, **options: Any) -> Any:
    """Calls a function. If the Hub's rate limit was reached, waits as long as it asks (or 1, 2, 4, … seconds) and calls again."""
    for attempt in range(ATTEMPTS):
        try:
            return call(*arguments, **options)
        except HfHubHTTPError as error:
            if error.response.status_code != 429 or attempt == ATTEMPTS - 1:
                raise
            asked = seconds_asked(error.response)
            wait = 2**attempt if asked is None else asked
            if wait > LONGEST_WAIT:
                raise
            print(f"the Hub's rate limit was reached; trying again in {plural(wait, 'second')}", flush=True)
            time.sleep(wait)


@contextlib.contextmanager
def hub_errors(repository: str, conflict: str = "") -> Iterator[None]:
    """Turns what the Hub refuses into a one-line error that says what to do.

    Args:
        conflict: The message to use if the Hub reports a conflict.
    """
    logging.set_verbosity_error()  # the client's warnings show signed addresses
    login = f"run `{program('hf')} auth login`, or set HF_TOKEN"
    again = "run the same command again, which sends only what has not arrived yet"
    try:
        yield
    except LocalTokenNotFoundError:
        raise LyricGPTError(f"there is no Hugging Face token: {login}") from None
    except OfflineModeIsEnabled:
        raise LyricGPTError("HF_HUB_OFFLINE is set; unset it to upload, or use --dry_run") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error
        if not isinstance(error, httpx2.HTTPError) and isinstance(error.__cause__, httpx2.HTTPError):
            cause = error.__cause__  # the upload of a file wraps the original error
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = (cause.server_message or "").strip().split("\n")[0]
            asked = seconds_asked(cause.response)
            refusals = {
                401: f"the Hub does not accept the token: {login}",
                402: f"the Hub requires payment to run {repository}: set that up on the Hub, then {again}",
                403: f"the token may not write to {repository}: use one with write access to it",
                404: f"the Hub has no {repository} that this token can see: check the name and the token",
                409: conflict or f"{repository} changed in the meantime: run the same command again",
                412: conflict or f"{repository} changed in the meantime: run the same command again",
                429: f"the Hub's rate limit was reached: wait {plural(asked, 'second') if asked else 'a while'}, then {again}",
            }
            advice = refusals.get(
                status,
                f"the Hub failed: {again}"
                if status >= 500
                else f"the Hub refused the request for {repository}: check the name, the branch and the tag",
            )
            raise LyricGPTError(f"{advice} (status {status}{f': {said}' if said else ''})") from None
        if isinstance(cause, httpx2.ConnectError):
            raise LyricGPTError(f"the Hub could not be reached ({cause}); {again}") from None
        if isinstance(cause, httpx2.HTTPError):
            raise LyricGPTError(f"the connection to the Hub was lost ({cause}); {again}") from None
        raise LyricGPTError(
            f"the transfer to or from {repository} failed ({' '.join(str(cause).split())}); check the connection and the free "
            f"disk space, then {again}"
        ) from None


def full_name(repository: str) -> str:
    """Returns the name of a repository with its owner, after checking that the token may write for that owner.

    Raises:
        LyricGPTError: there is no token, it is read-only, or the owner is neither its user nor one of their organizations.
    """
    with hub_errors(repository):
        account = patiently(HfApi().whoami)
    user = account["name"]
    owner, name = repository.split("/") if "/" in repository else (user, repository)
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise LyricGPTError(f"the token of {user} is read-only: use one with write access to {owner}/{name}")
    organizations = [organization["name"] for organization in account.get("orgs", [])]
    if owner.lower() not in [known.lower() for known in (user, *organizations)]:
        belongs = f"is in {', '.join(organizations)}" if organizations else "is in no organization"
        raise LyricGPTError(
            f"you can't publish for {owner}: the token belongs to {user}, who {belongs}. Choose another owner or token"
        )
    return f"{owner}/{name}"


def fetch(repository: str, branch: str, folder: Path) -> None:
    """Downloads the files on a branch of a model's repository.

    Raises:
        LyricGPTError: the Hub refuses; the message says what to do.
    """
    with hub_errors(repository):
        patiently(snapshot_download, repository, revision=branch, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # notes of the Hub's client


def open_repository(repository: str, private: bool | None, repo_type: str = "model") -> str:
    """Creates the repository if it does not exist; returns its address.

    Args:
        private: Whether it is to be private; `None` accepts an existing repository as it is.

    Raises:
        LyricGPTError: it exists and is public instead of private, or the other way round.
    """
    api = HfApi()
    kind = {"repo_type": repo_type, **({"space_sdk": "gradio"} if repo_type == "space" else {})}
    with hub_errors(repository, conflict=f"the name {repository} was taken just now: choose another, or try again"):
        try:
            is_private = patiently(api.repo_info, repository, repo_type=repo_type).private
        except RepositoryNotFoundError:
            patiently(api.create_repo, repository, private=private, **kind)
            is_private = private
    if private is None:
        private = is_private
    if private and not is_private:
        raise LyricGPTError(f"{repository} exists and is public; add --public if that is what you want")
    if is_private and not private:
        raise LyricGPTError(
            f"{repository} exists and is private; leave out --public, or make it public in its settings on the Hub"
        )
    return f"{api.endpoint}/{'spaces/' if repo_type == 'space' else ''}{repository}"


@dataclass
class Changes:
    """What one commit would change.

    Attributes:
        head: The branch's latest commit, which the new one names as its parent.
        changed: Names of files to send.
        stale: Names of files to delete.
        is_tagged: Whether the head already has the tag that it is to get.
        branches: All branches of the repository.
    """

    repository: str
    repo_type: str
    branch: str
    head: str
    changed: list[str]
    stale: list[str]
    is_tagged: bool
    branches: list[str]


def is_same(path: Path, there: RepoFile) -> bool:
    """Returns whether a file is the same as the one on the Hub, by its checksum."""
    if path.stat().st_size != there.size:
        return False
    if there.lfs is not None:
        return hash_file(path) == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def compare(folder: Path, repository: str, branch: str, tag: str | None = None, repo_type: str = "model") -> Changes:
    """Compares a folder with a branch on the Hub, and creates the branch if it does not exist.

    Raises:
        LyricGPTError: the branch holds something of another kind, or another commit already has the tag.
    """
    api = HfApi()
    with hub_errors(repository):
        refs = patiently(api.list_repo_refs, repository, repo_type=repo_type)
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        if branch not in heads:
            first = patiently(api.list_repo_commits, repository, repo_type=repo_type)[-1].commit_id
            patiently(api.create_branch, repository, branch=branch, revision=first, repo_type=repo_type)
            heads[branch] = first
        head = heads[branch]
        listing = {"revision": head, "recursive": True, "repo_type": repo_type}
        tree = patiently(lambda: list(api.list_repo_tree(repository, **listing)))
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        if set(there) - set(NEUTRAL):
            check_kind(folder, repository, repo_type, head, there)
    sent = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    changed = [name for name, path in sent.items() if name not in there or not is_same(path, there[name])]
    stale = [name for name in there if name not in sent and WRITTEN.fullmatch(name)]
    tagged = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
    if tagged is not None and (changed or stale or tagged != head):
        raise LyricGPTError(
            f"{repository} already has a tag {tag}, for commit {tagged[:12]}; choose another name for this one"
        )
    return Changes(repository, repo_type, branch, head, changed, stale, tagged is not None, list(heads))


def check_kind(folder: Path, repository: str, repo_type: str, head: str, there: Iterable[str]) -> None:
    """Makes sure that a model replaces only a model of its own kind, and a Space only an earlier version of this demo.

    Raises:
        LyricGPTError: the commit holds something else.
    """
    name, content = TELLING[repo_type], None
    if name in there:
        url = hf_hub_url(repository, name, revision=head, repo_type=repo_type)
        answer = patiently(http_backoff, "GET", url, headers=build_hf_headers())
        hf_raise_for_status(answer)
        content = answer.content
    if content is None:
        holds = f"files that are not a {repo_type}"
    elif repo_type == "space":
        holds = None if b"LyricGPT" in content else "another Space"
    else:
        kind = json.loads(content).get("model_type")
        holds = None if kind == read_json(folder / name)["model_type"] else f"a model of type {kind}"
    if holds is not None:
        raise LyricGPTError(f"the name {repository} is taken: it holds {holds}; choose another name")


def send(changes: Changes, folder: Path, message: str) -> str:
    """Commits the changes, or nothing if there are none; returns the commit that holds the folder's content.

    Raises:
        LyricGPTError: the Hub refuses; the message says what to do.
    """
    if not changes.changed and not changes.stale:
        return changes.head
    operations = [CommitOperationAdd(name, folder / name) for name in changes.changed]
    operations += [CommitOperationDelete(name) for name in changes.stale]
    changed = (
        f"somebody else changed {changes.repository} in the meantime, so nothing was committed: look at the change, "
        "then run the same command again"
    )
    with hub_errors(changes.repository, conflict=changed):
        commit = patiently(
            HfApi().create_commit,
            changes.repository,
            operations,
            repo_type=changes.repo_type,
            commit_message=message,
            revision=changes.branch,
            parent_commit=changes.head,
        )
    return commit.oid


def add_tag(repository: str, tag: str, commit: str) -> None:
    """Tags a commit.

    Raises:
        LyricGPTError: another commit has been given the tag in the meantime, or the Hub does not allow its name.
    """
    with hub_errors(
        repository, conflict=f"somebody else gave {repository} a tag {tag} in the meantime; choose another name"
    ):
        patiently(HfApi().create_tag, repository, tag=tag, revision=commit)


def set_variable(space: str, key: str, value: str) -> None:
    """Sets an environment variable of a Space, unless it has that value already, because each change restarts the Space."""
    with hub_errors(space):
        there = patiently(HfApi().get_space_variables, space)
        if key not in there or there[key].value != value:
            patiently(HfApi().add_space_variable, space, key, value)


def has_secret(space: str, key: str) -> bool:
    """Returns whether a Space has a secret of that name. (The Hub shows its value to nobody.)"""
    with hub_errors(space):
        return key in patiently(HfApi().get_space_secrets, space)
