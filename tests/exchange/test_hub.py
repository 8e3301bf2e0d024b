"""--push_to_hub against a server that stands in for the hub, and keeps what it is given."""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from exporting import run
from huggingface_hub import constants
from small import groups, network, save_run

from flatdiff.exchange import hub


class Hub(BaseHTTPRequestHandler):
    """The requests of a push: make the repository, check the card, ask how files go, commit."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        kept = self.server.kept
        kept["token"] = self.headers.get("Authorization")
        if self.path == "/api/repos/create":
            kept["repo"] = json.loads(body)
            return self.answer({"url": f"{self.server.address}/me/net"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.server.refuses:
            return self.answer({"error": "no room left"}, 507)
        if self.path.startswith("/api/models/me/net/preupload/"):
            files = [file["path"] for file in json.loads(body)["files"]]
            told = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer({"files": [{"path": path, **told} for path in files]})
        if self.path.startswith("/api/models/me/net/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"commitOid": "1", "commitUrl": f"{self.server.address}/me/net/commit/1"}
            )
        return self.answer({"error": self.path}, 404)

    def do_GET(self):
        self.answer({"sha": "0", "siblings": [], "id": "me/net"})

    def answer(self, told, status=200):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    found = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    found.kept, found.refuses = {}, False
    found.address = f"http://127.0.0.1:{found.server_port}"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", found.address)  # as $HF_ENDPOINT
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def checkpoint(tmp_path):
    model, diffusion = groups()
    save_run(tmp_path / "run", network()[0], "ema_0.9_000001.pt", model=model, diffusion=diffusion)
    return tmp_path / "run/ema_0.9_000001.pt"


def test_an_export_is_pushed_file_by_file(server, checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "export"
    run(monkeypatch, model_path=checkpoint, out_dir=out, push_to_hub="me/net")
    pushed = {path: data for path, data in server.kept.items() if path not in ("repo", "token")}
    assert pushed == {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()
    }
    assert {"README.md", "unet/config.json", "scheduler/scheduler_config.json"} < pushed.keys()
    assert server.kept["repo"]["name"] == "net" and "hf_of_the_test" in server.kept["token"]
    assert f"pushed: {server.address}/me/net" in capsys.readouterr().out


def test_a_refusal_is_a_sentence_and_the_folder_stays(server, tmp_path):
    (tmp_path / "a").write_text("1")
    server.refuses = True
    with pytest.raises(ValueError, match=r"me/net was not pushed \(.*507.*is whole: push it again"):
        hub.push(str(tmp_path), "me/net")
    assert (tmp_path / "a").read_text() == "1"


def test_what_cannot_be_pushed_is_told_before_the_work(checkpoint, tmp_path, monkeypatch, capsys):
    for name, missing, why in (("a/b/c", False, "a/b/c"), ("me/net", True, "pip install hugging")):
        with monkeypatch.context() as context:
            if missing:
                context.setitem(sys.modules, "huggingface_hub", None)
            with pytest.raises(SystemExit):
                out = tmp_path / "export"
                run(context, model_path=checkpoint, out_dir=out, push_to_hub=name)
        assert why in capsys.readouterr().err
        assert not (tmp_path / "export").exists()
