"""Tells systemd how we are, by its notification socket; without one nothing happens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """Sends states.

    Attributes:
        watchdog: seconds between two signs of life that systemd expects, or ``None``.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        micro = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(micro) / 1e6 if micro.isdigit() and int(micro) and mine and self._address else None

    def send(self, state: str) -> None:
        """Send ``READY=1`` and the like; a socket that is gone is not our problem."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.settimeout(1.0)
                client.connect(address)
                client.sendall(state.encode())
        except OSError:
            return
