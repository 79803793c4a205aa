"""The two hosts of the fake hub: the hub with its API, and the one that holds the large files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.hub_contents import OTHER_TOKEN, TOKEN, Hub, etag_of, git_hash, is_lfs, sha256

MAX_HOLD_S = 60.0
API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree|refs)(/(?P<rest>.*))?)?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
CACHED = re.compile(r"/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<name>.+)")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    def send_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Answers with the whole file or the range that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = {**headers, "Accept-Ranges": "bytes"}
        if asked is None:
            return self.send(200, content, headers)
        begin, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if begin >= len(content):
            return self.send(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self.send(206, content[begin : end + 1], headers)

    def send_json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        body = json.dumps({"error": message or code}).encode()
        self.send(status, body, {**{name: value for name, value in told.items() if value}, **headers})

    def send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(data)

    def _write(self, data: bytes) -> None:
        hub = self.hub
        if hub.break_at is not None and len(data) > hub.break_at:
            data, hub.break_at = data[: hub.break_at], None
            self.close_connection = True
        if hub.hold_at is not None and len(data) > hub.hold_at:
            hub.released.clear()
            self.wfile.write(data[: hub.hold_at])
            self.wfile.flush()
            data = data[hub.hold_at :]
            hub.released.wait(MAX_HOLD_S)
        self.wfile.write(data)

    def fails(self, path: str) -> bool:
        """Answers with an error that the test ordered, and returns whether it did."""
        for failure in self.hub.failures:
            if failure.part in path and failure.times:
                failure.times -= 1
                self.refuse(failure.status, **failure.headers)  # type: ignore[arg-type]  # names of headers
                return True
        return False

    def log_message(self, *_: object) -> None:
        pass


class HubHandler(_Handler):
    """The hub itself: /api/models/… and /owner/name/resolve/…, and any other file of a repository by its full path."""

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        if self.command == "GET":
            hub.requests.append((path, self.headers.get("Range"), authorization))
        if self.fails(path):
            return None
        raw = urlsplit(self.path).path.removeprefix(hub.prefix)  # a "/" inside a revision is written as %2F
        for pattern, answer in ((CACHED, self._cached_file), (API, self._api), (RESOLVE, self._resolve)):
            if match := pattern.fullmatch(raw):
                if new := hub.renamed.get(match["repo"]):
                    return self.send(307, b"", {"Location": self.path.replace(match["repo"], new, 1)})
                return answer(match) if self._may_see(match["repo"]) else None
        content = next((files[path] for files in hub.repos.values() if path in files), None)
        return self.refuse(404) if content is None else self.send_file(content, {})

    def _may_see(self, repo: str) -> bool:
        """Refuses a repository that is not there or private, in the words in which the real hub hides which it is."""
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}", f"Bearer {OTHER_TOKEN}"):
            self.refuse(401, message="Invalid credentials in Authorization header")
            return False
        hidden = repo in self.hub.private and authorization != f"Bearer {TOKEN}"
        if repo not in self.hub.repos or hidden:
            self.refuse(401 if authorization is None else 404, "RepoNotFound", "Repository not found")
            return False
        return True

    def _api(self, match: re.Match[str]) -> None:
        repo, what, rest = match["repo"], match["what"], match["rest"] or ""
        if what == "refs":
            refs = {"main": self.hub.commit_of(repo, "main")}
            return self.send_json({"branches": [{"name": n, "targetCommit": c} for n, c in refs.items()], "tags": []})
        revision, _, folder = (rest or "main").partition("/")
        commit = self.hub.commit_of(repo, unquote(revision))
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            return self._tree(repo, commit, unquote(folder))
        info = {
            "id": repo, "modelId": repo, "sha": commit, "private": repo in self.hub.private, "tags": [],
            "gated": "auto" if repo in self.hub.gated else False, "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name} for name in self.hub.files(repo, commit)],
        }  # fmt: skip
        return self.send_json(info, {"X-Repo-Commit": commit})

    def _tree(self, repo: str, commit: str, folder: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, content in self.hub.files(repo, commit).items():
            if name.startswith(prefix):
                inner = name.removeprefix(prefix).split("/")
                for depth in range(1, len(inner)):
                    path = prefix + "/".join(inner[:depth])
                    directory = {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
                    entries.setdefault(path, directory)
                entries[name] = self._entry(name, content)
        recursive = query.get("recursive", ["false"])[0].lower() in ("1", "true")
        shown = [entry for path, entry in entries.items() if recursive or "/" not in path.removeprefix(prefix)]
        if query.get("expand", ["false"])[0].lower() in ("1", "true"):
            last = {"id": commit, "title": "Upload", "date": "2026-01-02T03:04:05.000Z"}
            security = {"status": "safe", "avScan": {"status": "safe"}, "pickleImportScan": None}
            shown = [{**entry, "lastCommit": last, "securityFileStatus": security} for entry in shown]
        begin = int(query.get("cursor", ["0"])[0])
        page, headers = shown[begin : begin + self.hub.page_size], {"X-Repo-Commit": commit}
        if begin + self.hub.page_size < len(shown):
            kept = "&".join(f"{key}={quote(values[0])}" for key, values in query.items() if key != "cursor")
            address = f"{self.hub.url}{urlsplit(self.path).path}?{kept}&cursor={begin + self.hub.page_size}"
            headers["Link"] = f'<{address}>; rel="next"'
        return self.send_json(page, headers)

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        if not is_lfs(name):
            return {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{etag_of(name, content)}\n"
        pointer += f"size {len(content)}\n"
        entry = {
            "type": "file", "path": name, "size": len(content), "oid": git_hash(pointer.encode()),
            "lfs": {"oid": etag_of(name, content), "size": len(content), "pointerSize": len(pointer)},
        }  # fmt: skip
        return entry | ({"xetHash": _xet_hash(content)} if self.hub.xet else {})

    def _resolve(self, match: re.Match[str]) -> None:
        hub, repo, name = self.hub, match["repo"], unquote(match["name"])
        commit = hub.commit_of(repo, unquote(match["revision"]))
        if commit is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        authorization = self.headers.get("Authorization")
        if repo in hub.gated and authorization != f"Bearer {TOKEN}":
            return self.refuse(403 if authorization else 401, "GatedRepo", f"Access to model {repo} is restricted")
        content = hub.files(repo, commit).get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if not is_lfs(name):
            cached = f"/api/resolve-cache/models/{repo}/{commit}/{quote(name)}"
            return self.send(307, b"", {**headers, "Location": cached})
        etag = etag_of(name, content)
        headers |= {"X-Linked-Etag": f'"{etag}"', "Location": f"{hub.cdn_url}/{etag}?Expires=9&Signature={etag[:8]}"}
        if hub.xet:
            route = f"{hub.url}/api/models/{repo}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": _xet_hash(content), "X-Xet-Refresh-Route": route}
            headers["Link"] = f'<{route}>; rel="xet-auth"'
        return self.send(302, b"", headers)

    def _cached_file(self, match: re.Match[str]) -> None:
        content = self.hub.files(match["repo"], match["commit"])[unquote(match["name"])]
        self.send_file(content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": match["commit"]})


class CdnHandler(_Handler):
    """The host of the large files. Like the real one it refuses a signed link together with a token."""

    def answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        if self.command == "GET":
            hub.cdn_requests.append((url.path, self.headers.get("Range"), authorization))
        if self.fails(url.path):
            return None
        etag = url.path.removeprefix("/")
        if authorization is not None:
            return self.refuse(400, message="Only one auth mechanism allowed")
        if f"Signature={etag[:8]}" not in url.query:
            return self.refuse(403, message="Missing Key-Pair-Id query parameter or cookie value")
        every_commit = [*hub.repos.values(), *(files for later in hub.commits.values() for files in later.values())]
        contents = (content for files in every_commit for content in files.values())
        content = next((data for data in contents if sha256(data) == etag), None)
        return self.refuse(404) if content is None else self.send_file(content, {"ETag": f'"{etag}"'})


def _xet_hash(content: bytes) -> str:
    return sha256(b"xet" + content)
