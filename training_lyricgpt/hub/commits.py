"""Talks to the Hub: who may write where, what differs from what is there, one commit, and what went wrong in one line.

Notable:
- What is on a branch is compared with what would be sent, by Git's and LFS's own checksums. Equal content makes no
  commit, so a push that was interrupted can simply be started again.
- The commit names its parent: if somebody else has committed meanwhile, the Hub refuses it.
- A new branch begins empty, at the repository's first commit, whatever is on `main`.
- Models and Spaces take the same way; `repo_type` says which, in the Hub's words.
- Rate limits are waited for as long as the Hub asks, within reason. A commit whose answer got lost is not tried again
  here: it may have taken effect.
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
from ..wording import plural

ATTEMPTS = 5
LONGEST_WAIT = 300  # seconds that a rate limit is waited for at once
# Files that a push writes; one on the branch that a push no longer writes belongs to another model.
WRITTEN = re.compile(r"\w+_lyricgpt\.py|model[\w.-]*\.safetensors(\.index\.json)?|(quality|songs|environment)\.json")
# The file that says what a repository holds.
TELLING = {"model": "config.json", "space": "app.py"}
# Files that say nothing about it.
NEUTRAL = (".gitattributes", "README.md", "LICENSE")


def seconds_asked(response: httpx2.Response) -> int | None:
    """How long a rate-limited client is asked to wait, if the Hub says."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    asked = response.headers.get("Retry-After", "")
    return int(asked) if asked.isdigit() else None


def patiently(call: Callable, *arguments: Any, **options: Any) -> Any:
    """Calls; where the Hub limits the rate, waits as long as it asks (else 1, 2, 4, … seconds) and calls again."""
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
            print(f"the Hub limits the rate; going on in {plural(wait, 'second')}", flush=True)
            time.sleep(wait)


@contextlib.contextmanager
def hub_errors(repository: str, conflict: str = "") -> Iterator[None]:
    """Says in one line what the Hub refused, and what to do.

    Args:
        conflict: What it means here that the Hub sees a conflict.
    """
    logging.set_verbosity_error()  # the client's warnings show addresses that are signed
    again = "run the same command again: what has arrived is not sent twice"
    try:
        yield
    except LocalTokenNotFoundError:
        raise LyricGPTError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise LyricGPTError("HF_HUB_OFFLINE is set; unset it to upload, or use --dry_run") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error
        if not isinstance(error, httpx2.HTTPError) and isinstance(error.__cause__, httpx2.HTTPError):
            cause = error.__cause__  # the upload of a file wraps what happened to it
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = (cause.server_message or "").strip().split("\n")[0]
            asked = seconds_asked(cause.response)
            refusals = {
                401: "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN",
                402: f"the Hub asks to be paid before {repository} may run",
                403: f"the token may not write to {repository}: use one with write access to it",
                404: f"the Hub has no {repository} that this token can see",
                409: conflict or f"{repository} changed meanwhile",
                412: conflict or f"{repository} changed meanwhile",
                429: f"the Hub limits the rate; {again}" + (f", in {plural(asked, 'second')}" if asked else ", later"),
            }
            advice = refusals.get(status, f"the Hub failed; {again}" if status >= 500 else "the Hub refused")
            raise LyricGPTError(f"{advice} (status {status}{f': {said}' if said else ''})") from None
        if isinstance(cause, httpx2.ConnectError):
            raise LyricGPTError(f"the Hub could not be reached ({cause}); {again}") from None
        if isinstance(cause, httpx2.HTTPError):
            raise LyricGPTError(f"the connection to the Hub was lost ({cause}); {again}") from None
        raise LyricGPTError(f"the upload to {repository} failed: {' '.join(str(cause).split())}") from None


def full_name(repository: str) -> str:
    """The name of a repository with its owner, who is known to exist and whom the token may write for.

    Raises:
        LyricGPTError: there is no token, it only reads, or the owner is neither its user nor one of their organisations.
    """
    with hub_errors(repository):
        account = patiently(HfApi().whoami)
    user = account["name"]
    owner, name = repository.split("/") if "/" in repository else (user, repository)
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise LyricGPTError(f"the token of {user} only reads: use one with write access to {owner}/{name}")
    organisations = [organisation["name"] for organisation in account.get("orgs", [])]
    if owner.lower() not in [known.lower() for known in (user, *organisations)]:
        belongs = f"belongs to {', '.join(organisations)}" if organisations else "belongs to no organisation"
        raise LyricGPTError(f"there is no organisation {owner} to publish for: the token is of {user}, who {belongs}")
    return f"{owner}/{name}"


def fetch(repository: str, branch: str, folder: Path) -> None:
    """Downloads what a branch of a model's repository holds.

    Raises:
        LyricGPTError: what the Hub said, and what to do.
    """
    with hub_errors(repository):
        patiently(snapshot_download, repository, revision=branch, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes


def open_repository(repository: str, private: bool | None, repo_type: str = "model") -> str:
    """Creates the repository if it is not there; returns its address.

    Args:
        private: Who may see it; `None` for a repository that is there and stays as it is.

    Raises:
        LyricGPTError: it is there, and public where it was to be private, or the other way round.
    """
    api = HfApi()
    kind = {"repo_type": repo_type, **({"space_sdk": "gradio"} if repo_type == "space" else {})}
    with hub_errors(repository, conflict=f"the name {repository} was taken just now: choose another, or run it again"):
        try:
            is_private = patiently(api.repo_info, repository, repo_type=repo_type).private
        except RepositoryNotFoundError:
            patiently(api.create_repo, repository, private=private, **kind)
            is_private = private
    if private is None:
        private = is_private
    if private and not is_private:
        raise LyricGPTError(f"{repository} exists and is public; say --public if that is what you want")
    if is_private and not private:
        raise LyricGPTError(f"{repository} exists and is private; leave --public out, or change it in its settings")
    return f"{api.endpoint}/{'spaces/' if repo_type == 'space' else ''}{repository}"


@dataclass
class Changes:
    """What one commit would change.

    Attributes:
        head: The branch's commit, which the new one names as its parent.
        changed: Names of files that are sent.
        stale: Names of files that are deleted.
        is_tagged: Whether the head has the tag already that it is to get.
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
    """Whether a file is what lies on the Hub, by its checksum."""
    if path.stat().st_size != there.size:
        return False
    if there.lfs is not None:
        return hash_file(path) == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def compare(folder: Path, repository: str, branch: str, tag: str | None = None, repo_type: str = "model") -> Changes:
    """Compares a folder with a branch of the Hub, which is begun if it is not there.

    Raises:
        LyricGPTError: the branch holds something of another kind, or the tag stands for something else already.
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
            f"{repository} has a tag {tag} already, of commit {tagged[:12]}; choose another name for this one"
        )
    return Changes(repository, repo_type, branch, head, changed, stale, tagged is not None, list(heads))


def check_kind(folder: Path, repository: str, repo_type: str, head: str, there: Iterable[str]) -> None:
    """Makes sure that a model replaces only a model of its own kind, and a Space only an earlier one of this demo.

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
        holds = f"files that are no {repo_type}"
    elif repo_type == "space":
        holds = None if b"LyricGPT" in content else "another Space"
    else:
        kind = json.loads(content).get("model_type")
        holds = None if kind == read_json(folder / name)["model_type"] else f"a model of type {kind}"
    if holds is not None:
        raise LyricGPTError(f"the name {repository} is taken: it holds {holds}; choose another name")


def send(changes: Changes, folder: Path, message: str) -> str:
    """Makes the commit of such changes, or none where nothing differs; returns the commit that holds the folder's content.

    Raises:
        LyricGPTError: what the Hub said, and what to do.
    """
    if not changes.changed and not changes.stale:
        return changes.head
    operations = [CommitOperationAdd(name, folder / name) for name in changes.changed]
    operations += [CommitOperationDelete(name) for name in changes.stale]
    changed = (
        f"{changes.repository} was changed by somebody else meanwhile; nothing was committed: look, and run it again"
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
    """Gives a commit a name.

    Raises:
        LyricGPTError: the name was given to another meanwhile, or is none that the Hub allows.
    """
    with hub_errors(repository, conflict=f"{repository} has got a tag {tag} meanwhile; choose another name"):
        patiently(HfApi().create_tag, repository, tag=tag, revision=commit)


def set_variable(space: str, key: str, value: str) -> None:
    """Gives a Space an environment variable, unless it has it already: each change starts the Space anew."""
    with hub_errors(space):
        there = patiently(HfApi().get_space_variables, space)
        if key not in there or there[key].value != value:
            patiently(HfApi().add_space_variable, space, key, value)


def has_secret(space: str, key: str) -> bool:
    """Whether a Space has been given a secret of that name; what it is, the Hub tells nobody."""
    with hub_errors(space):
        return key in patiently(HfApi().get_space_secrets, space)
