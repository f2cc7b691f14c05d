"""Drives `witness run` in a pseudo-terminal, as a person would. Run by tests/e2e/talk.rs.

Arguments: a file with lines to type, then the command. Waits for the prompt before each line. A line `^C` presses Ctrl-C, `^D` ends
the input, and `~^C` presses Ctrl-C while an answer is waited for. Prints everything that the terminal showed.
"""

import os
import pty
import select
import sys
import time

PROMPTS = (b">>> ", b"... ")
PATIENCE_S = 60

with open(sys.argv[1], encoding="utf-8") as file:
    lines = file.read().split("\n")
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[2], sys.argv[2:])

shown = b""


def read(until):
    """Reads until the terminal shows one of these behind what it showed before, or ends."""
    global shown
    start = len(shown)
    deadline = time.monotonic() + PATIENCE_S
    while not any(end in shown[start:] for end in until):
        if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            sys.exit("the terminal stood still; it showed:\n" + shown.decode(errors="replace"))
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return
        if not piece:
            return
        shown += piece


for line in lines:
    read((b"thinking",) if line == "~^C" else PROMPTS)
    os.write(terminal, {"^C": b"\x03", "~^C": b"\x03", "^D": b"\x04"}.get(line, line.encode() + b"\r"))
read([b"\0never\0"])
os.waitpid(pid, 0)
sys.stdout.buffer.write(shown)
