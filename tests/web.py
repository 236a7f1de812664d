"""A web server in this process that behaves as badly as it is told to."""

import http.server
import threading
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``: path → bytes. ``faults``: path → what goes wrong there, once for each name in its list.

    ``truncate``: half of what was asked for, then the connection ends. ``stall``: half, then nothing. ``wrong``: other
    bytes. ``error``: 503. ``ignore``: the whole file, whatever part was asked for. ``asked``: (path, range) of each
    request.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.redirects, self.asked = files, {}, {}, []
        self.release = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        faults = server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else None
        if fault == "error":
            self.send_error(503)
            return
        content, start = server.files[self.path], 0
        if fault == "wrong":
            content = bytes(len(content))
        if asked and fault != "ignore":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if fault in ("truncate", "stall") else rest)
        self.wfile.flush()
        if fault == "stall":
            server.release.wait(10)

    def log_message(self, *unused):
        pass


def serving(files):
    """A server of files while the block runs."""
    return running(Server(files))


@contextmanager
def running(server):
    """A server while the block runs; it has a ``release`` for those who wait in it."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
