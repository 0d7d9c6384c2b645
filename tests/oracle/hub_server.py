"""A server that speaks the Hugging Face hub's protocol, and misbehaves on request.

Models are folders. Large files are served like LFS files: known by their SHA-256, behind a redirect to another address.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 4096


def git_hash(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """What is served, what goes wrong, and what was asked for."""

    models: dict[str, Path] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    """Models that want this token."""
    cut_after: int | None = None
    """Close connections after so many bytes of a large file."""
    cuts: int = 0
    """How often that still happens."""
    refusals: list[int] = field(default_factory=list)
    """Status codes that the next requests for files get."""
    damaged: set[str] = field(default_factory=set)
    """Files of which a byte is changed on the way."""
    ranges: bool = True
    """Whether parts of files can be asked for."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths and `Range` headers."""
    sent: int = 0
    """Bytes of large files."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, model: str) -> str:
        """Changes when a file does."""
        digest = hashlib.sha1()
        for file in self.files(model):
            digest.update(file.encode() + (self.models[model] / file).read_bytes())
        return digest.hexdigest()

    def files(self, model: str) -> list[str]:
        root = self.models[model]
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def sibling(self, model: str, file: str) -> dict:
        content = (self.models[model] / file).read_bytes()
        entry = {"rfilename": file, "size": len(content), "blobId": git_hash(content)}
        if len(content) >= LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return entry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        with self.hub.lock:
            self.hub.requests.append((path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            self.tree("/".join(parts[2:4]))
        elif parts[:2] == ["api", "models"]:
            self.listing("/".join(parts[2:4]), "/".join(parts[5:]), "blobs" in parse_qs(url.query))
        elif parts[0] == "cdn":
            assert "Authorization" not in self.headers, "a token must not leave the hub"
            self.content("/".join(parts[1:3]), "/".join(parts[3:]), head)
        else:
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), head)

    def known(self, model: str) -> bool:
        token = self.hub.gated.get(model)
        if model not in self.hub.models:
            self.status(404 if "Authorization" in self.headers else 401)
            return False
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self.status(403 if "Authorization" in self.headers else 401)
            return False
        return True

    def listing(self, model: str, revision: str, blobs: bool) -> None:
        if not self.known(model):
            return
        commit = self.hub.commit(model)
        if revision not in ("main", commit):
            self.status(404)
            return
        siblings = [self.hub.sibling(model, file) for file in self.hub.files(model)]
        if not blobs:
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        body = json.dumps({"id": model, "sha": commit, "siblings": siblings}).encode()
        self.status(200, body, {"Content-Type": "application/json"})

    def tree(self, model: str) -> None:
        """The listing as newer versions of the hub's own library ask for it."""
        if not self.known(model):
            return
        entries = []
        for file in self.hub.files(model):
            sibling = self.hub.sibling(model, file)
            entry = {"type": "file", "path": file, "size": sibling["size"], "oid": sibling["blobId"]}
            if lfs := sibling.get("lfs"):
                entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            entries.append(entry)
        self.status(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def resolve(self, model: str, revision: str, file: str, head: bool) -> None:
        if not self.known(model):
            return
        if not (self.hub.models[model] / file).is_file():
            self.status(404, headers={"X-Error-Code": "EntryNotFound"})
            return
        sibling = self.hub.sibling(model, file)
        headers = {"X-Repo-Commit": self.hub.commit(model)}
        if "lfs" not in sibling:
            self.content(model, file, head, {**headers, "ETag": f'"{sibling["blobId"]}"'})
            return
        headers["X-Linked-Etag"] = f'"{sibling["lfs"]["sha256"]}"'
        headers["X-Linked-Size"] = str(sibling["size"])
        # Another host name, as the real one's.
        headers["Location"] = f"http://127.0.0.1:{self.server.server_port}/cdn/{model}/{file}"
        self.status(302, headers=headers)

    def content(self, model: str, file: str, head: bool, headers: dict | None = None) -> None:
        with self.hub.lock:
            refusal = self.hub.refusals.pop(0) if self.hub.refusals and not head else None
        if refusal:
            self.status(refusal, headers={"Retry-After": "0"})
            return
        content = bytearray((self.hub.models[model] / file).read_bytes())
        if file in self.hub.damaged:
            content[len(content) // 2] ^= 1
        start, end, status = 0, len(content), 200
        headers = dict(headers or {})
        wanted = self.headers.get("Range")
        if wanted and self.hub.ranges and not head:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, status = int(first), 206
            end = min(int(last) + 1, end) if last else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = bytes(content[start:end])
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if head:
            return
        with self.hub.lock:
            cut = self.hub.cut_after if len(content) >= LARGE and self.hub.cuts > 0 else None
            self.hub.cuts -= cut is not None
            body = body if cut is None else body[:cut]
            self.hub.sent += len(body) if len(content) >= LARGE else 0
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass
        if cut is not None:
            self.close_connection = True

    def status(self, code: int, body: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def serve(hub: Hub) -> tuple[ThreadingHTTPServer, str]:
    """Starts the server; returns it with its address."""
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://localhost:{server.server_port}"
