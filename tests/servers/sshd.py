"""OpenSSH's own server, unprivileged, SFTP only."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

from tests.servers.daemon import Daemon, find_program

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {home}/hostkey
PidFile none
AuthorizedKeysFile {home}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions {sessions}
UseDNS no
Subsystem sftp internal-sftp{denied}
{more}
"""


class Sshd(Daemon):
    """An sshd that lets the user of this process in with the key ``user_key``.

    Args:
        denied: SFTP requests that are refused, as ``"remove,opendir"``.
        more: further lines of the configuration file.
    """

    name = "sshd"

    def __init__(self, home: Path, *, sessions: int = 10, denied: str = "", more: str = "") -> None:
        super().__init__(home)
        self.program = find_program("sshd", "openssh-server")
        self.user = getpass.getuser()
        self.data = home / "data"
        self.data.mkdir(exist_ok=True)
        self.host_key = self._make_key("hostkey")
        self.user_key = home / "id"
        (home / "authorized_keys").write_text(self._make_key("id") + "\n")
        self.config = home / "sshd_config"
        refused = f" -P {denied}" if denied else ""
        settings = {"port": self.port, "home": home, "sessions": sessions, "denied": refused, "more": more}
        self.config.write_text(_CONFIG.format(**settings))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _make_key(self, name: str) -> str:
        path = self.home / name
        keygen = find_program("ssh-keygen", "openssh-client")
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return " ".join(path.with_suffix(".pub").read_text().split()[:2])

    def command(self) -> list[str]:
        return [self.program, "-D", "-e", "-f", str(self.config)]

    def path(self, name: str) -> str:
        """The absolute path of a replica on the server."""
        return str(self.data / name)

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; the key file and the host key come with ``options``."""
        return f"sftp://{self.user}@127.0.0.1:{port or self.port}{self.path(name)}"

    @property
    def options(self) -> dict[str, str]:
        """What the URL cannot say."""
        return {"key-path": str(self.user_key), "host-key": self.host_key}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {
            "type": "sftp",
            "host": f"127.0.0.1:{port or self.port}",
            "user": self.user,
            "path": self.path(name),
            "key-path": str(self.user_key),
            "host-key": self.host_key,
        }
