"""Other people's systems, for tests: one that takes webhooks, and one that takes e-mails."""

import http.server
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from demo import ports


class Receiver:
    """Somebody's system: keeps what it gets, and answers as the test wants."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any, bytes]] = []
        self.code = 200
        self.headers: dict[str, str] = {}
        self.body = b"thanks"
        self.hold = threading.Event()  # set: answers; the test clears it to keep the sender waiting
        self.hold.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                receiver.got.append((self.path, self.headers, body))
                receiver.hold.wait(20)
                self.send_response(receiver.code)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(receiver.body)))
                self.end_headers()
                self.wfile.write(receiver.body)

            def do_GET(self) -> None:  # what a redirect that was followed would become
                self.do_POST()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A sender that went away is what some tests are about."""

        self.server = Server((ports.HOST, 0), Handler)
        self.url = f"http://{ports.HOST}:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def end(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _MailHandler(socketserver.StreamRequestHandler):
    """As much SMTP as is needed to take an e-mail."""

    server: "_MailListener"

    def handle(self) -> None:
        self.say("220 ready")
        for line in self.lines():
            self.say(self.answer(line.upper()))

    def answer(self, line: str) -> str:
        if line != "DATA":
            return "221 bye" if line == "QUIT" else "250 ok"
        self.say("354 go on")
        self.server.got.append("\n".join(iter(self.lines().__next__, ".")))
        return "250 ok"

    def lines(self) -> Iterator[str]:
        while line := self.rfile.readline():
            yield line.decode().rstrip("\r\n")

    def say(self, words: str) -> None:
        self.wfile.write(words.encode() + b"\r\n")


class _MailListener(socketserver.ThreadingTCPServer):
    def __init__(self) -> None:
        self.got: list[str] = []
        super().__init__((ports.HOST, 0), _MailHandler)

    def handle_error(self, *_: object) -> None:
        """A sender that was killed is what some tests are about."""


class MailServer:
    """Keeps the e-mails that it is given."""

    def __init__(self) -> None:
        self.server = _MailListener()
        self.url = f"smtp://{ports.HOST}:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def got(self) -> list[str]:
        return self.server.got

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
