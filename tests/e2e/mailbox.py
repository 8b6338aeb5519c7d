"""A mail server on a host that keeps what it is given: `python3 - PORT FILE`."""

import socketserver
import sys
from pathlib import Path


class Session(socketserver.StreamRequestHandler):
    """One sender."""

    def handle(self) -> None:
        """Takes letters until it quits."""
        self.say("220 mailbox")
        while line := self.rfile.readline().decode().upper():
            if line.startswith("DATA"):
                self.say("354 go on")
                self.keep()
            self.say("221 bye" if line.startswith("QUIT") else "250 ok")

    def keep(self) -> None:
        """Writes a letter down; a sender puts a dot before each line that begins with one."""
        with Path(sys.argv[2]).open("ab") as file:
            for line in iter(self.rfile.readline, b".\r\n"):
                file.write(line.removeprefix(b"."))

    def say(self, words: str) -> None:
        """Answers."""
        self.wfile.write(f"{words}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    """Its port is free again at once."""

    allow_reuse_address = True


Server(("127.0.0.1", int(sys.argv[1])), Session).serve_forever()
