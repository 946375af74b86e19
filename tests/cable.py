"""A connection between a browser and a server that can be cut, slowed down and mended."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from demo import ports

_PIECE = 1 << 16


class Cable:
    """Listens at ``url`` and hands bytes on to ``port``; ``with`` it.

    ``cuts``: after so many bytes towards the server all connections break off, each time anew.
    ``rate`` towards the server, bytes per second; 0 is as fast as it goes. Answers are lost while
    ``is_one_way``.
    """

    def __init__(self, port: int, cuts: Sequence[int] = (), rate: float = 0) -> None:
        self.carried = 0
        self.cuts_made = 0
        self.rate = rate
        self.is_one_way = False
        self._target = port
        self._cuts = list(cuts)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server((ports.HOST, 0))
        self.url = f"http://{ports.HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread that accepts waiting for ever.
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *values: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=values, daemon=True))
        self._threads[-1].start()

    def cut(self) -> None:
        with self._lock:
            self.cuts_made += 1
            ends, self._open = self._open, set()
        for end in ends:
            with suppress(OSError):  # it broke off by itself
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection((ports.HOST, self._target))
            except OSError:
                near.close()
                continue
            self._start(self._carry, near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
        with near, far:
            with self._lock:
                self._open |= {near, far}
            back.start()
            self._pump(near, far, True)
            back.join()
            with self._lock:
                self._open -= {near, far}

    def _pump(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        # A connection that is cut ends here with an error, or with nothing to read.
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if is_up or not self.is_one_way:
                    sink.sendall(data)
                if is_up:
                    self._count(len(data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        with self._lock:
            self.carried += size
            is_due = bool(self._cuts) and self.carried >= self._cuts[0]
            if is_due:
                self._cuts.pop(0)
        if is_due:
            self.cut()
        if self.rate:
            time.sleep(size / self.rate)
