"""A server on the loopback interface that hands out a file, well or badly, for the tests of downloads."""
import hashlib
import http.server
import random
import re
import socket
import threading
import time

DATA = random.Random(0).randbytes(600_000)  # more than two chunks
OTHER = random.Random(1).randbytes(600_000)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at every path that `files` does not name; attributes say how.

    `seen` lists (path, Range or None) of every request.
    """

    daemon_threads = True
    data, etag, ranges, length = DATA, '"v1"', True, True
    content_type = "application/octet-stream"
    extra = {}  # more headers of an answer with data

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.agents, self.script = [], [], []  # script: what to do with the next requests
        self.files = {}  # {path: data}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.gate, self.reached = threading.Event(), threading.Event()  # of the action 'wait'

    def handle_error(self, request, client_address):
        pass  # clients that hang up are what is tested


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send_head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.seen.append((self.path, asked))
        server.agents.append(self.headers["User-Agent"])
        self.close_connection = True
        action, argument = server.script.pop(0) if server.script else ("serve", None)
        if action == "status":
            return self.send_head(argument, {"Content-Length": 0})
        if action == "redirect":
            return self.send_head(302, {"Content-Length": 0, **argument})
        if action == "stall":
            server.gate.wait(10)
            return None
        data, start, status = server.files.get(self.path, server.data), 0, 200
        headers = {"Content-Type": server.content_type, **({"ETag": server.etag} if server.etag else {}),
                   **server.extra}
        if asked and server.ranges:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]), 206
            if start >= len(data):
                return self.send_head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}", **headers}
        if server.length:
            headers["Content-Length"] = len(data) - start
        self.send_head(status, headers)
        return self.send_body(data[start:], action, argument)

    def send_body(self, body, action, argument):
        if action == "cut":  # the connection ends early, in order
            self.wfile.write(body[:argument])
        elif action == "reset":  # the connection breaks, once the client has had time to read
            self.wfile.write(body[:argument])
            time.sleep(0.2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        elif action == "wait":  # pauses in the middle until the test opens the gate
            self.wfile.write(body[:argument])
            self.server.reached.set()
            self.server.gate.wait(10)
            self.wfile.write(body[argument:])
        elif action == "dribble":
            for at in range(0, len(body), argument):
                self.wfile.write(body[at:at + argument])
                time.sleep(0.01)
        else:
            self.wfile.write(body)
