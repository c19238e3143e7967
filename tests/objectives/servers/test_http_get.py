import json
import os
import subprocess
import sys
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from objectives.servers.http_get import http_json, http_ready, http_text


@pytest.fixture
def server():
    """Answers 200 on /health, JSON on /facts, 401 without the key `k`, nothing at all on /mute."""
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/mute":
                release.wait(30)
            if self.path == "/cut":
                return
            known = self.path == "/health" or self.headers["Authorization"] == "Bearer k"
            body = b"no json" if self.path == "/text" else json.dumps({"ok": 1}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listener.server_port}"
        release.set()
        listener.shutdown()
        thread.join()


def test_a_server_is_ready_once_its_health_says_so(server):
    assert http_ready(server)()


def test_it_is_not_ready_where_nobody_listens():
    assert not http_ready("http://127.0.0.1:1")()


def test_it_is_not_ready_where_the_key_is_wrong(server):
    assert not http_ready(server, path="/facts")()
    assert not http_ready(server, path="/facts", api_key="wrong")()
    assert http_ready(server, path="/facts", api_key="k")()


def test_it_is_not_ready_while_it_does_not_answer(server):
    assert not http_ready(server, path="/mute", timeout_s=0.05)()


def test_a_connection_that_is_cut_is_no_answer(server):
    with pytest.raises(OSError):
        http_text(f"{server}/cut", timeout_s=2)


def test_json_is_read_and_what_is_none_is_said(server):
    assert http_json(f"{server}/facts", api_key="k") == {"ok": 1}
    with pytest.raises(ValueError):
        http_json(f"{server}/text", api_key="k")


def test_a_refusal_keeps_its_code(server):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        http_json(f"{server}/facts")
    assert refusal.value.code == 401


def test_a_proxy_of_the_environment_is_not_asked(server):
    code = (
        "from objectives.servers.http_get import http_json; "
        f"print(http_json('{server}/facts', api_key='k'))"
    )
    env = {**os.environ, "http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    argv = (sys.executable, "-c", code)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "{'ok': 1}\n"
