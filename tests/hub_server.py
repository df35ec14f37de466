"""A small Hugging Face Hub on this machine, for tests that use the real clients.

Notes:
- It answers what `huggingface_hub`, `transformers` and `datasets` request: accounts and organizations, tokens that may
  read or write, private repositories, commits that check their parent, branches, tags, LFS uploads, files by revision.
- Repositories and their history are kept in memory. One uvicorn server runs in one thread.
- LFS content comes from another origin (`localhost` instead of `127.0.0.1`), as on the real Hub. A token that a client
  sends there is recorded.
- `hub.fault(...)` makes chosen requests fail: with a status, or by cutting the connection before or after they take
  effect. It can also call a function just before a request is answered.
- A Space has variables and secrets, and a README.md from the start. It does not run.
- It leaves out Xet storage, discussions, pull requests and moved repositories.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

LARGE = 10 << 20  # bytes; every larger file is an LFS file

# The user and role of each token.
TOKENS = {
    "hf_youMayWriteyouMayWriteyouMayWrite": ("you", "write"),
    "hf_youMayReadyouMayReadyouMayReadyou": ("you", "read"),
    "hf_otherMayWriteotherMayWriteotherMa": ("other", "write"),
}
# The members of each organization and their roles.
ORGANISATIONS = {"band": {"you": "write", "other": "admin"}, "label": {"you": "read", "other": "write"}}


class Refusal(Exception):
    """An error that the Hub answers with; `code` is its `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


@dataclass
class Blob:
    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Its Git object id; for an LFS file, that of its pointer."""
        content = self.content
        if self.is_lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def describe(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Commit:
    oid: str
    parent: "Commit | None"
    author: str
    title: str
    message: str
    date: str
    files: dict[str, Blob]

    def history(self) -> "list[Commit]":
        """This commit and those before it, newest first."""
        return [self, *(self.parent.history() if self.parent else [])]


@dataclass
class Repository:
    kind: str
    name: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    variables: dict[str, dict] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)

    def commit(self, branch: str, author: str, title: str, message: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        text = repr((parent and parent.oid, author, title, time.time_ns()))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.branches[branch] = Commit(
            oid, parent, author, title, message, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), files
        )
        return self.branches[branch]

    def find(self, revision: str) -> Commit:
        commits = [commit for head in (*self.branches.values(), *self.tags.values()) for commit in head.history()]
        found = self.branches.get(revision) or self.tags.get(revision)
        found = found or next((commit for commit in commits if commit.oid == revision), None)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


@dataclass
class Fault:
    """A way in which matching requests fail.

    Attributes:
        path: Regular expression that is searched for in the path as it was sent (a branch `a/b` is `a%2Fb` there).
        status: HTTP status to answer with, without handling the request.
        retry_after: Seconds for the `Retry-After` header that is sent with the status.
        cut: `request` cuts the connection while the request is being read, so that it has no effect. `response` lets
            the request take effect and cuts the connection in the middle of the answer.
        before: Called before the request is answered.
        at_cut: Called just before the connection is cut.
        times: How many requests are affected.
    """

    path: str
    method: str | None = None
    status: int | None = None
    retry_after: int | None = None
    cut: str | None = None
    before: Callable | None = None
    at_cut: Callable = lambda: None
    times: int = 1


class Hub:
    """The state of the Hub, with methods for tests."""

    def __init__(self):
        self.endpoint = self.storage = ""
        self.reset()

    def reset(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens_at_storage: list[str] = []

    def token(self, role: str = "write", user: str = "you") -> str:
        return next(token for token, value in TOKENS.items() if value == (user, role))

    def fault(self, path: str, **values) -> None:
        self.faults.append(Fault(path, **values))

    def repository(self, name: str, kind: str = "models") -> Repository:
        return self.repositories[kind, name]

    def commits(self, name: str, branch: str = "main", kind: str = "models") -> list[Commit]:
        """Commits of a branch, newest first, without the one that created the repository."""
        return self.repository(name, kind).branches[branch].history()[:-1]

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.repository(name, kind).find(revision).files.items()}

    def create(self, name: str, private: bool = True, kind: str = "models") -> Repository:
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
        files = {".gitattributes": attributes}
        if kind == "spaces":
            files["README.md"] = Blob(b"---\ntitle: New\nsdk: gradio\napp_file: app.py\n---\n", False)
        repository.commit("main", "system", "initial commit", "", files)
        return repository

    def commit_as(
        self, user: str, name: str, files: dict[str, bytes], branch: str = "main", kind: str = "models"
    ) -> Commit:
        """Makes a commit that is not part of the push under test."""
        repository = self.repository(name, kind)
        added = {path: Blob(content, is_lfs(path, content, len(content))) for path, content in files.items()}
        return repository.commit(branch, user, "Edit", "", repository.branches[branch].files | added)

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method in (None, method) and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


def is_lfs(path: str, sample: bytes, size: int) -> bool:
    try:
        sample[:500].decode()
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:  # not just a character cut off by the end of the sample
            return True
    return size > LARGE or path.endswith(".safetensors")


def part(request: Request, name: str) -> str:
    return unquote(request.path_params[name])


def whose(request: Request) -> tuple[str | None, str | None]:
    """The user and role of a request's token, or `(None, None)` without a token."""
    header = request.headers.get("authorization")
    if header is None:
        return None, None
    if (token := header.removeprefix("Bearer ")) not in TOKENS:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return TOKENS[token]


def may_write(user: str | None, role: str | None, namespace: str) -> bool:
    member = ORGANISATIONS.get(namespace, {}).get(user)
    return role == "write" and (user == namespace or member in ("write", "admin"))


def find_repository(hub: Hub, request: Request, write: bool = False) -> Repository:
    """The repository that a request names. Raises `Refusal` if the sender may not see it (or write to it)."""
    user, role = whose(request)
    namespace, name = part(request, "namespace"), part(request, "name")
    kind = request.path_params.get("kind", "models")
    repository = hub.repositories.get((kind, f"{namespace}/{name}"))
    member = user == namespace or user in ORGANISATIONS.get(namespace, {})
    if repository is None or (repository.private and not member):
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        raise Refusal(404, "Repository not found", "RepoNotFound")
    if write and user is None:
        raise Refusal(401, "Invalid username or password.")
    if write and not may_write(user, role, namespace):
        raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return repository


class Kind(Convertor):
    """The kind of a repository, as part of a path."""

    regex = "models|datasets|spaces"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("kind", Kind())


def build_app(hub: Hub) -> Starlette:
    """The Hub's HTTP interface. Paths are matched as they were sent; `part` unquotes their parts."""

    async def whoami(request):
        user, role = whose(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        organizations = [
            {"type": "org", "name": name, "roleInOrg": members[user]}
            for name, members in ORGANISATIONS.items()
            if user in members
        ]
        token = {"displayName": "test", "role": role}
        auth = {"type": "access_token", "accessToken": token}
        return JSONResponse({"type": "user", "name": user, "fullname": user, "orgs": organizations, "auth": auth})

    async def validate_yaml(request):
        content = (await request.json())["content"]
        block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            errors = [] if block is None or isinstance(yaml.safe_load(block[1]), dict) else ["not a mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        return JSONResponse(answer, 400 if errors else 200)

    async def create(request):
        user, role = whose(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        body = await request.json()
        namespace, kind = body.get("organization") or user, body.get("type", "model") + "s"
        known = {who for who, _ in TOKENS.values()} | set(ORGANISATIONS)
        if namespace not in known:
            raise Refusal(404, f"Namespace {namespace} not found")
        if not may_write(user, role, namespace):
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        name = f"{namespace}/{body['name']}"
        url = f"{hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in hub.repositories:
            error = "You already created this model repo"
            return JSONResponse({"error": error, "url": url}, 409, {"X-Error-Message": error})
        if kind == "spaces" and body.get("sdk") not in ("gradio", "docker", "static"):
            raise Refusal(400, "a Space needs an sdk")
        private = body.get("private", False) or body.get("visibility") == "private"
        hub.create(name, private, kind)
        return JSONResponse({"url": url, "name": name, "private": private})

    async def info(request):
        repository = find_repository(hub, request)
        commit = repository.find(part(request, "revision") if "revision" in request.path_params else "main")
        siblings = [
            {"rfilename": path, "size": len(blob.content), "blobId": blob.oid}
            | ({"lfs": {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.is_lfs else {})
            for path, blob in sorted(commit.files.items())
        ]
        answer = {"id": repository.name, "author": repository.name.split("/")[0], "sha": commit.oid}
        answer |= {"private": repository.private, "gated": False, "disabled": False, "tags": [], "downloads": 0}
        return JSONResponse(answer | {"lastModified": commit.date, "createdAt": commit.date, "siblings": siblings})

    async def tree(request):
        commit = find_repository(hub, request).find(part(request, "revision"))
        folder = part(request, "path").strip("/") if "path" in request.path_params else ""
        inside = {
            path: blob for path, blob in sorted(commit.files.items()) if not folder or path.startswith(f"{folder}/")
        }
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
        folders = {str(p) for path in inside for p in PurePosixPath(path).parents if str(p) not in (".", folder)}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        entries += [blob.describe(path) for path, blob in inside.items()]
        if request.query_params.get("recursive", "false").lower() not in ("true", "1"):
            depth = len(PurePosixPath(folder).parts) + 1
            entries = [entry for entry in entries if len(PurePosixPath(entry["path"]).parts) == depth]
        if request.query_params.get("expand", "false").lower() in ("true", "1"):
            last = {"id": commit.oid, "title": commit.title, "date": commit.date}
            entries = [entry | {"lastCommit": last} for entry in entries]
        return JSONResponse(entries)

    async def paths_info(request):
        commit = find_repository(hub, request).find(part(request, "revision"))
        paths = [value for key, value in (await read_form(request)) if key == "paths"]
        entries = []
        for path in paths:
            if path in commit.files:
                entries.append(commit.files[path].describe(path))
            elif any(name.startswith(f"{path}/") for name in commit.files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return JSONResponse(entries)

    async def refs(request):
        repository = find_repository(hub, request)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": head.oid}
            for name, head in repository.branches.items()
        ]
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit.oid}
            for name, commit in repository.tags.items()
        ]
        return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    async def commits(request):
        history = find_repository(hub, request).find(part(request, "revision")).history()
        return JSONResponse(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "authors": [{"user": commit.author}],
                    "date": commit.date,
                }
                for commit in history
            ]
        )

    async def preupload(request):
        repository = find_repository(hub, request, write=True)
        files = repository.find(part(request, "revision")).files
        answer = []
        for file in (await request.json())["files"]:
            lfs = is_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
            old = files.get(file["path"])
            oid = None if old is None else old.sha256 if old.is_lfs else old.oid
            mode = "lfs" if lfs else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": answer, "commitOid": repository.find(part(request, "revision")).oid})

    async def commit(request):
        repository = find_repository(hub, request, write=True)
        branch = part(request, "revision")
        if branch not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repository.branches[branch]
        if header.get("parentCommit") not in (None, head.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in hub.uploaded:
                    raise Refusal(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = Blob(hub.uploaded[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                files = {path: blob for path, blob in files.items() if not path.startswith(value["path"])}
        user, _ = whose(request)
        made = repository.commit(branch, user, header["summary"], header["description"], files)
        url = f"{hub.endpoint}/{repository.name}/commit/{made.oid}"
        return JSONResponse({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    async def branch(request):
        repository, name = find_repository(hub, request, write=True), part(request, "branch")
        if request.method == "DELETE":
            repository.branches.pop(name)
            return JSONResponse({})
        body = json.loads(await request.body() or b"{}")
        if name in repository.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repository.branches[name] = repository.find(body.get("startingPoint", "main"))
        return JSONResponse({}, 201)

    async def tag(request):
        repository, revision = find_repository(hub, request, write=True), part(request, "revision")
        if request.method == "DELETE":
            repository.tags.pop(revision)
            return JSONResponse({})
        name = (await request.json())["tag"]
        if name in repository.tags:
            raise Refusal(409, f"Tag reference exists already: {name}")
        repository.tags[name] = repository.find(revision)
        return JSONResponse({}, 201)

    async def variables(request):
        """A Space's variables. Only those who may write to the Space can see and change them."""
        repository = find_repository(hub, request, write=True)
        if request.method == "POST":
            body = await request.json()
            repository.variables[body["key"]] = {"value": body["value"], "updatedAt": "2026-01-01T00:00:00.000Z"}
        return JSONResponse(repository.variables)

    async def secrets(request):
        """The names of a Space's secrets."""
        return JSONResponse(find_repository(hub, request, write=True).secrets)

    async def lfs_batch(request):
        find_repository(hub, request, write=True)
        objects = []
        for item in (await request.json())["objects"]:
            if item["oid"] not in hub.uploaded:
                upload = {"href": f"{hub.storage}/lfs/{item['oid']}"}
                verify = {"href": f"{hub.endpoint}/api/lfs/{item['oid']}/verify"}
                item = item | {"actions": {"upload": upload, "verify": verify}}
            objects.append(item)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def lfs_upload(request):
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            raise Refusal(400, "the content does not match its SHA-256")
        hub.uploaded[request.path_params["oid"]] = content
        return Response(status_code=200)

    async def lfs_verify(request):
        if len(hub.uploaded.get(request.path_params["oid"], b"")) != (await request.json())["size"]:
            raise Refusal(404, "no such object")
        return JSONResponse({})

    async def resolve(request):
        repository = find_repository(hub, request)
        commit, path = repository.find(part(request, "revision")), part(request, "path")
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            return refuse(Refusal(404, "Entry not found", "EntryNotFound"), headers)
        blob = commit.files[path]
        if not blob.is_lfs:
            return content_of(request, blob.content, headers | {"ETag": f'"{blob.oid}"'})
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        hub.uploaded[blob.sha256] = blob.content
        return RedirectResponse(f"{hub.storage}/lfs/{blob.sha256}", 302, headers)

    async def lfs_download(request):
        oid = request.path_params["oid"]
        return content_of(request, hub.uploaded[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    repository = "/api/{kind:kind}/{namespace}/{name}"
    routes = [
        Route("/api/whoami-v2", whoami),
        Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
        Route("/api/repos/create", create, methods=["POST"]),
        Route("/api/lfs/{oid}/verify", lfs_verify, methods=["POST"]),
        Route(repository, info),
        Route(repository + "/revision/{revision}", info),
        Route(repository + "/tree/{revision}", tree),
        Route(repository + "/tree/{revision}/{path:path}", tree),
        Route(repository + "/paths-info/{revision}", paths_info, methods=["POST"]),
        Route(repository + "/refs", refs),
        Route(repository + "/commits/{revision}", commits),
        Route(repository + "/preupload/{revision}", preupload, methods=["POST"]),
        Route(repository + "/commit/{revision}", commit, methods=["POST"]),
        Route(repository + "/branch/{branch}", branch, methods=["POST", "DELETE"]),
        Route(repository + "/tag/{revision}", tag, methods=["POST", "DELETE"]),
        Route(repository + "/variables", variables, methods=["GET", "POST"]),
        Route(repository + "/secrets", secrets),
        Route("/lfs/{oid}", lfs_upload, methods=["PUT"]),
        Route("/lfs/{oid}", lfs_download),
        Route("/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
        Route("/{kind:kind}/{namespace}/{name}.git/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
        Route("/{kind:kind}/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
        Route("/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    ]
    return Starlette(routes=routes, exception_handlers={Refusal: lambda _, raised: refuse(raised)})


def refuse(raised: Refusal, headers: dict[str, str] | None = None) -> Response:
    headers = {"X-Error-Message": raised.message} | (headers or {})
    if raised.code:
        headers["X-Error-Code"] = raised.code
    return JSONResponse({"error": raised.message}, raised.status, headers)


async def read_form(request: Request) -> list[tuple[str, str]]:
    """The fields of a form."""
    return parse_qsl((await request.body()).decode())


def content_of(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """A file, or the part of it that the request asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not match:
        return Response(content, headers=headers, media_type="application/octet-stream")
    size = len(content)
    if match[1]:
        begin, end = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        begin, end = max(size - int(match[2]), 0), size - 1
    if begin > end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers = headers | {"Content-Range": f"bytes {begin}-{end}/{size}"}
    return Response(content[begin : end + 1], 206, headers, media_type="application/octet-stream")


class Door:
    """Records each request and applies the faults before the app sees it."""

    def __init__(self, hub: Hub, app: Starlette):
        self.hub, self.app = hub, app

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        path = scope["path"] = scope["raw_path"].decode()
        self.hub.requests.append((scope["method"], path))
        if path.startswith("/lfs/") and b"authorization" in headers:
            self.hub.tokens_at_storage.append(path)
        fault = self.hub.take_fault(scope["method"], path)
        if fault is None:
            return await self.app(scope, receive, send)
        if fault.before:
            fault.before()
        if fault.status:
            extra = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
            answer = refuse(Refusal(fault.status, f"fault {fault.status}"), extra)
            return await answer(scope, receive, send)
        transport = receive.__self__.transport  # uvicorn's transport for this request
        if fault.cut == "request":
            length, arrived = int(headers.get(b"content-length", 0)), 0
            while arrived < length / 2:
                arrived += len((await receive()).get("body", b""))
            fault.at_cut()
            return transport.abort()
        if fault.cut == "response":

            async def send_half(message):
                if message["type"] == "http.response.body":
                    fault.at_cut()
                    body = message.get("body", b"")
                    await send({**message, "body": body[: len(body) // 2], "more_body": True})
                    transport.close()
                elif not transport.is_closing():
                    await send(message)

            return await self.app(scope, receive, send_half)
        return await self.app(scope, receive, send)


class HubServer:
    """Runs the Hub in a thread on a free local port, until `stop` is called."""

    def __init__(self):
        self.hub = Hub()
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.hub.endpoint, self.hub.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        app = Door(self.hub, build_app(self.hub))
        config = uvicorn.Config(app, lifespan="off", log_level="warning", http="h11", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=10)
