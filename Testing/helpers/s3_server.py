"""A server on loopback that speaks S3 (moto), and a front of it that makes faults."""

from __future__ import annotations

import http.client
import logging
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class S3Server:
    """Buckets that everyone can read, as those of Imaging Data Commons. ``url``: the endpoint."""

    def __init__(self):
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.buckets: set[str] = set()
        # moto keeps the buckets of all servers of a process together: begin without those of another test file.
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")).close()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        if bucket not in self.buckets:
            self._ask("PUT", bucket)
            self.buckets.add(bucket)
        self._ask("PUT", f"{bucket}/{key}", content)

    def delete(self, bucket: str, key: str) -> None:
        self._ask("DELETE", f"{bucket}/{key}")

    def _ask(self, method: str, path: str, content: bytes | None = None) -> None:
        headers = {"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}/{path}", content, headers, method=method)
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        self.server.stop()


class FaultyFront:
    """Passes requests on to a server, and answers those of objects as ``fault`` says.

    fault: "" (none), "403", "503", "503 twice" (the first two times of each object), "cut" (half of the body),
    "changed" (a byte of the body), "slow". asked: how often each object was asked for.
    """

    def __init__(self, url: str):
        self.behind, self.fault, self.asked = url.removeprefix("http://"), "", Counter()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                front.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # who asked was killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        is_object = ".dcm" in handler.path and handler.command == "GET"
        if is_object:
            self.asked[handler.path] += 1
        fault = self.fault if is_object else ""
        if fault in ("403", "503") or (fault == "503 twice" and self.asked[handler.path] <= 2):
            self._refuse(handler, int(fault[:3]))
            return
        connection = http.client.HTTPConnection(self.behind)
        passed = {name: value for name, value in handler.headers.items() if name.lower() in ("range", "accept")}
        connection.request(handler.command, handler.path, headers=passed)
        reply = connection.getresponse()
        content = reply.read()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                handler.send_header(name, value)
        handler.end_headers()
        connection.close()
        if fault == "cut":
            content, handler.close_connection = content[: len(content) // 2], True
        if fault == "changed":
            content = content[:-1] + bytes([content[-1] ^ 1])
        step = 1024 if fault == "slow" else len(content) or 1
        for start in range(0, len(content), step):
            handler.wfile.write(content[start : start + step])
            if fault == "slow":
                threading.Event().wait(0.01)

    @staticmethod
    def _refuse(handler, status: int) -> None:
        code = {403: "AccessDenied", 503: "SlowDown"}[status]
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
