"""A checkpoint reaches the hub whole, with card and licence, or is refused before anything is saved."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import tiny_model

import claw
from claw.errors import InputError
from claw.stages import share


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine that takes one commit; what it was sent, by path."""
    taken: dict[str, object] = {"calls": []}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *values): ...

        def do_GET(self):
            self.reply({"private": True, "id": "anna/small", "sha": "0" * 40, "siblings": []})

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            taken["calls"].append((self.path, self.headers.get("Authorization")))
            if self.path.endswith("/preupload/main"):
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]
                ]
                self.reply({"files": files})
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        taken[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.reply(
                    {
                        "commitUrl": "https://huggingface.co/anna/small/commit/1",
                        "commitOid": "1" * 40,
                        "pullRequestUrl": None,
                        "success": True,
                    }
                )
            elif self.path.endswith("/repos/create"):
                taken["created"] = json.loads(body)
                self.reply({"url": "https://huggingface.co/anna/small"})
            else:
                self.reply({"errors": [], "warnings": []})

        def reply(self, content):
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    import huggingface_hub

    real = huggingface_hub.HfApi
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=address, token="hf_made_up"))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_made_up")
    yield taken
    server.shutdown()


def test_the_hub_gets_every_file_with_card_and_licence(hub, tokenizer, tmp_path):
    small, report = claw.compress(tiny_model("llama"), "magnitude", 0.5)
    folder = claw.save(small, tokenizer, tmp_path / "small", report, base_model="smollm2-135m", push_to_hub="anna/small")
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: hub.get(name) for name in there} == there and b"license: apache-2.0" in hub["README.md"]
    created = hub["created"]
    assert created["name"] == "small" and (created.get("private") or created.get("visibility") == "private")


def test_without_a_token_nothing_is_saved(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="hf auth login"):
        claw.save(tiny_model("llama"), tokenizer, tmp_path / "small", push_to_hub="anna/small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("name", ["small", "a/b/c", "", "anna/"])
def test_a_name_that_no_repository_has_is_refused(name):
    with pytest.raises(InputError, match="OWNER/NAME"):
        share.check_push(name)


def test_a_hub_that_refuses_leaves_the_checkpoint_and_says_how_to_go_on(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_made_up")  # and tests are offline
    with pytest.raises(InputError, match=r"is saved, but the hub did not take it.*hf upload"):
        claw.save(tiny_model("llama"), tokenizer, tmp_path / "small", push_to_hub="anna/small")
    assert (tmp_path / "small" / "model.safetensors").is_file()
