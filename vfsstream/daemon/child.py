"""The program that runs under the replicator (``-exec``)."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Callable

from vfsstream.errors import UsageError

__all__ = ["Child", "split_command"]


def split_command(text: str) -> list[str]:
    """A command line as words, by a shell's quoting; nothing is expanded.

    Raises:
        UsageError: empty, unbalanced quotes, or an operator that only a shell understands.
    """
    try:
        words = shlex.split(text)
        operators = shlex.shlex(text, posix=False, punctuation_chars=";&|<>")
        operators.whitespace_split = True
        operators.commenters = ""
        found = next((token for token in operators if token and not token.strip(";&|<>")), None)
    except ValueError as error:
        raise UsageError(f"cannot understand the command: {str(error).lower()}", hint="check its quotes") from None
    if not words:
        raise UsageError("the command to run is empty", hint="-exec 'gunicorn app:app'")
    if found:
        raise UsageError(
            f"the command is run without a shell, {found} has no meaning", hint=f"-exec \"sh -c '{text}'\""
        )
    return words


class Child:
    """A running program.

    Args:
        words: program and arguments.
        ended: called from a thread with the exit status once it ended; a signal's number is negative.

    Raises:
        UsageError: the program cannot be started.
    """

    def __init__(self, words: list[str], ended: Callable[[int], None]) -> None:
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise UsageError(
                f"cannot run {words[0]}: {error.strerror}", hint="check the command and $PATH"
            ) from None
        self._ended = ended
        self.pid = self._process.pid
        self._thread = threading.Thread(target=self._wait, name="vfsstream-child", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._ended(self._process.wait())

    def send(self, number: int) -> None:
        """Pass a signal on; nothing happens when it ended already."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self._process.send_signal(signal.SIGKILL)
