"""Archives are found in an index, resumed, verified and read; what is damaged is named and never read."""

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import traceback
import zipfile
from urllib.parse import unquote

import pytest

from claw.errors import InputError
from claw.models import archives

FILE = "demo-1.0-py3-none-any.whl"


def wheel() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo/data.txt", "hello " * 5000)
    return out.getvalue()


@pytest.fixture
def index(monkeypatch, own_cache):
    """A package index on the loopback that serves one file, with ranges; `server.json` switches the index format."""
    body = wheel()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.server.want and self.headers.get("Authorization") != self.server.want:
                self.reply(401, b"", "text/plain")
            elif self.path == "/simple/demo/":
                if self.server.json:
                    page = json.dumps({"files": [{"url": f"/files/{FILE}", "filename": FILE}]}).encode()
                    kind = "application/vnd.pypi.simple.v1+json"
                else:
                    page, kind = f'<a href="../../files/{FILE}#sha256=0">x</a>'.encode(), "text/html"
                self.reply(200, page, kind)
            elif self.path == f"/files/{FILE}":
                start = int(self.headers.get("Range", "bytes=0-").split("=")[1].rstrip("-"))
                self.server.starts.append(start)
                if start >= len(self.server.body):
                    self.reply(416, b"", "text/plain")
                else:
                    self.reply(206 if start else 200, self.server.body[start:], "application/octet-stream")
            else:
                self.reply(404, b"", "text/plain")

        def reply(self, status, content, kind):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.starts, server.json, server.want = body, [], True, ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    archives.index_url.cache_clear()
    yield server
    server.shutdown()
    archives.index_url.cache_clear()


def pin(body: bytes, package="demo", file=FILE) -> archives.Archive:
    return archives.Archive(package, "1.0", file, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("as_json", [True, False], ids=["json index", "html index"])
def test_fetch_once(index, as_json):
    index.json = as_json
    path = archives.fetch(pin(index.body))
    assert path.read_bytes() == index.body
    archives.fetch(pin(index.body))
    assert index.starts == [0]  # the second call downloads nothing


def test_a_broken_download_continues(index, own_cache):
    part = own_cache / "archives" / f"{FILE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(index.body[:100])
    assert archives.fetch(pin(index.body)).read_bytes() == index.body
    assert index.starts == [100]


def test_a_damaged_part_is_fetched_anew(index, own_cache):
    part = own_cache / "archives" / f"{FILE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    assert archives.fetch(pin(index.body)).read_bytes() == index.body
    assert index.starts == [100, 0]


def test_other_bytes_than_pinned_are_deleted_unread(index, own_cache):
    with pytest.raises(InputError, match=r"sha256 .* is pinned, so it was deleted unread"):
        archives.fetch(pin(b"other"))
    assert not list((own_cache / "archives").glob("*.whl"))


def test_a_file_put_there_by_hand_is_verified_and_never_deleted(index, own_cache):
    place = own_cache / "archives" / FILE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not the wheel")
    with pytest.raises(InputError, match="claw did not put it there, so it was left unread"):
        archives.fetch(pin(index.body))
    assert place.read_bytes() == b"not the wheel" and not index.starts
    place.write_bytes(index.body)
    assert archives.fetch(pin(index.body)) == place and not index.starts


@pytest.mark.parametrize("change", ["other bytes", "cut", "gone", "old stamp"])
def test_an_archive_that_was_damaged_after_it_was_verified_is_fetched_again(index, own_cache, change):
    path = archives.fetch(pin(index.body))
    if change == "other bytes":
        path.write_bytes(b"x" * len(index.body))
    elif change == "cut":
        path.write_bytes(index.body[:-1])
    elif change == "gone":
        path.unlink()
    else:  # of a version that wrote down the digest only: the bytes are read
        path.with_name(f"{FILE}.verified").write_text(pin(index.body).sha256)
    assert archives.fetch(pin(index.body)).read_bytes() == index.body
    assert len(index.starts) == (1 if change == "old stamp" else 2)


def test_an_archive_that_is_as_it_was_is_not_read_again(index, own_cache, monkeypatch):
    path = archives.fetch(pin(index.body))
    monkeypatch.setattr(archives, "sha256", lambda path: pytest.fail("read"))
    assert archives.fetch(pin(index.body)) == path


CREDENTIALS = [("anna", "secret"), ("anna", "p%40ss%2Fword"), ("token", "")]


@pytest.mark.parametrize(("user", "password"), CREDENTIALS)
def test_a_password_reaches_its_own_host_and_no_message(index, own_cache, monkeypatch, user, password):
    index.want = "Basic " + base64.b64encode(f"{user}:{unquote(password)}".encode()).decode()
    address = f"http://{user}:{password}@127.0.0.1:{index.server_port}/simple"
    monkeypatch.setenv("PIP_INDEX_URL", address)
    archives.index_url.cache_clear()
    assert archives.fetch(pin(index.body)).read_bytes() == index.body
    index.want = "no"
    (own_cache / "archives" / FILE).unlink()
    for wrong in (address, address.replace(str(index.server_port), "9"), f"http://{user}:{password}@[bad/simple"):
        monkeypatch.setenv("PIP_INDEX_URL", wrong)
        archives.index_url.cache_clear()
        with pytest.raises(InputError) as refused:
            archives.fetch(pin(index.body))
        shown = "".join(traceback.format_exception(refused.value))
        assert not any(word and word in shown for word in (password, unquote(password), f"{user}:", f"{user}@")), shown


def test_a_package_that_the_index_lacks_is_explained(index):
    with pytest.raises(InputError, match="PIP_INDEX_URL"):
        archives.fetch(pin(index.body, file="other-1.0-py3-none-any.whl"))


def test_no_network_is_explained(own_cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    archives.index_url.cache_clear()
    with pytest.raises(InputError, match=r"Could not fetch .*Check the network.*continues where it stopped"):
        archives.fetch(pin(b"x"))
    archives.index_url.cache_clear()


def test_too_little_disk_is_said_before_downloading(index, monkeypatch):
    usage = archives.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"MB but only .* are free.*CLAW_CACHE"):
        archives.fetch(pin(index.body))


def test_members_of_wheels_and_tar_archives(tmp_path):
    zipped = tmp_path / "a.whl"
    zipped.write_bytes(wheel())
    with archives.open_member(zipped, "demo/data.txt") as stream:
        assert stream.read(5) == b"hello"
    assert archives.members(zipped, "demo/", ".txt") == ["demo/data.txt"]
    tarred = tmp_path / "a.tar.gz"
    with tarfile.open(tarred, "w:gz") as archive:
        archive.add(zipped, "inner/a.whl")
    with archives.open_member(tarred, "inner/a.whl") as stream:
        assert stream.read(2) == b"PK"
    with pytest.raises(InputError, match="not the archive that was verified"), archives.open_member(zipped, "no/such"):
        pass
    tarred.write_bytes(b"garbage")
    with pytest.raises(InputError, match="not the archive"), archives.open_member(tarred, "x"):
        pass
