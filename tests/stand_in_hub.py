"""A stand-in for the Hugging Face hub: the answers that its client needs, from memory.

Models with their commits, `safetensors` as git-lfs and other files in the commit itself; private
ones and uploads need the token. `requests` are those that came, `(method, path)`.
"""

import base64
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

TOKEN = "hf_of_the_test"


@dataclasses.dataclass(frozen=True)
class Blob:
    content: bytes
    is_large: bool = False

    @property
    def oid(self):
        """The hash by which git knows it."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self):
        return hashlib.sha256(self.content).hexdigest() if self.is_large else self.oid


@dataclasses.dataclass
class Repository:
    private: bool = False
    gated: bool = False
    revisions: dict = dataclasses.field(default_factory=dict)
    files: dict = dataclasses.field(default_factory=dict)
    messages: list = dataclasses.field(default_factory=list)

    def commit(self, files, message=""):
        """Make `files` the newest ones, `{name: Blob}`."""
        self.messages.append(message)
        names = [f"{name} {blob.oid}" for name, blob in sorted(files.items())]
        text = "\n".join([str(len(self.messages)), message, *names])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.files[sha] = dict(files)
        self.revisions["main"] = sha
        return sha

    def sha(self, revision):
        return revision if revision in self.files else self.revisions.get(revision)


class StandInHub:
    """Serves models until the end of a `with` block."""

    def __init__(self):
        self.repositories = {}
        self.uploaded = {}
        self.requests = []
        self.broken = False
        hub = self

        class Handler(_Handler):
            def do_GET(self):
                self.answer(hub)

            do_HEAD = do_POST = do_PUT = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def add(self, name, files, **options):
        """Make a model of `{name: bytes}`; returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**options))
        blobs = {each: Blob(content, is_large(each)) for each, content in files.items()}
        return repository.commit(blobs)


def is_large(name):
    return name.endswith(".safetensors")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, hub):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        hub.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        if hub.broken:
            return self.send(503, b"broken")
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, hub, body, *found.groups())
        return self.send(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def _chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status, content, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")  # or a client stays connected to a closed server
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content, status=200):
        self.send(status, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    @property
    def may_write(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, hub, name, revision="main"):
        """The repository and a commit of it, or `None` after an error was sent."""
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not self.may_write):
            # The hub tells those without a token no more than that.
            status = 404 if self.may_write else 401
            return self.send(status, b"", **{"X-Error-Code": "RepoNotFound"})
        if repository.gated and not self.may_write:
            return self.send(403, b"", **{"X-Error-Code": "GatedRepo"})
        sha = repository.sha(revision)
        if sha is None:
            return self.send(404, b"", **{"X-Error-Code": "RevisionNotFound"})
        return repository, sha

    def info(self, hub, _, name, revision=None):
        if found := self.found(hub, name, revision or "main"):
            repository, sha = found
            siblings = [
                {"rfilename": each, "size": len(blob.content), "blobId": blob.oid}
                for each, blob in repository.files[sha].items()
            ]
            content = {"id": name, "sha": sha, "private": repository.private}
            self.send_json(content | {"siblings": siblings})

    def tree(self, hub, _, name, revision):
        if found := self.found(hub, name, revision):
            repository, sha = found
            entries = []
            for each, blob in repository.files[sha].items():
                size = len(blob.content)
                entry = {"type": "file", "path": each, "size": size, "oid": blob.oid}
                if blob.is_large:
                    entry["lfs"] = {"oid": blob.etag, "size": size, "pointerSize": 134}
                entries.append(entry)
            self.send_json(entries)

    def resolve(self, hub, _, name, revision, file):
        if found := self.found(hub, name, revision):
            repository, sha = found
            blob = repository.files[sha].get(file)
            if blob is None:
                self.send(404, b"", **{"X-Error-Code": "EntryNotFound"})
            else:
                headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'}
                self.send(200, blob.content, **headers)

    def create(self, hub, body):
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self.may_write:
            return self.send(401, b"")
        content = {"url": f"{hub.url}/{name}", "name": name}
        if name in hub.repositories:
            return self.send_json(content, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        hub.repositories[name] = Repository(private=private)
        hub.repositories[name].commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n")})
        return self.send_json(content)

    def validate(self, _, body):
        import yaml  # comes with the client

        text = json.loads(body)["content"]
        values = yaml.safe_load(text.split("---\n")[1])
        wrong = [key for key in ("library_name", "pipeline_tag") if key not in values]
        errors = [{"message": f"no {key}"} for key in wrong]
        self.send_json({"errors": errors, "warnings": []}, 400 if wrong else 200)

    def preupload(self, hub, body, name, revision):
        if not self.may_write:
            self.send(403, b"")
        elif self.found(hub, name, revision):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if is_large(each["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            self.send_json({"files": files})

    def batch(self, hub, body, name):
        objects = []
        for each in json.loads(body)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in hub.uploaded:
                links = {"upload": f"{hub.url}/lfs/{each['oid']}", "verify": f"{hub.url}/verify"}
                entry["actions"] = {kind: {"href": link} for kind, link in links.items()}
            objects.append(entry)
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, hub, body, oid):
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            hub.uploaded[oid] = body
        self.send(200 if right else 400, b"")

    def verify(self, hub, body):
        found = json.loads(body)
        self.send(200 if len(hub.uploaded[found["oid"]]) == found["size"] else 400, b"")

    def commit(self, hub, body, name, revision):
        if not self.may_write:
            self.send(403, b"")
        elif found := self.found(hub, name, revision):
            repository, sha = found
            files, message = dict(repository.files[sha]), ""
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    message = value["summary"]
                elif line["key"] == "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    files[value["path"]] = Blob(hub.uploaded[value["oid"]], is_large=True)
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            new = repository.commit(files, message)
            url = f"{hub.url}/{name}/commit/{new}"
            self.send_json({"success": True, "commitOid": new, "commitUrl": url})


_MODEL = r"([^/]+/[^/]+)"
_ROUTES = (
    (rf"/api/models/{_MODEL}", _Handler.info),
    (rf"/api/models/{_MODEL}/revision/(.+)", _Handler.info),
    (rf"/api/models/{_MODEL}/tree/([^/]+)", _Handler.tree),
    (rf"/{_MODEL}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"/api/models/{_MODEL}/preupload/(.+)", _Handler.preupload),
    (rf"/{_MODEL}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/lfs/([0-9a-f]+)", _Handler.upload),
    (r"/verify", _Handler.verify),
    (rf"/api/models/{_MODEL}/commit/(.+)", _Handler.commit),
)
