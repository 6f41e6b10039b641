"""Apache with mod_dav: the WebDAV server most people have."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from tests.servers.daemon import Daemon, find_program

_MODULES = (
    "mpm_event authn_core authn_file authz_core authz_user auth_basic auth_digest dir autoindex dav dav_fs headers"
)
_CONFIG = """\
ServerRoot {home}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {home}/run/pid
DefaultRuntimeDir {home}/run
ErrorLog {home}/error.log
{load}
{account}
DavLockDB {home}/run/davlock
KeepAlive On
MaxKeepAliveRequests 0
DocumentRoot {data}
<Directory {data}>
  Dav On
  Options +Indexes
  DirectoryIndex disabled
  AllowOverride None
  AuthType {kind}
  AuthName dav
  AuthUserFile {home}/users
  Require valid-user
  {more}
</Directory>
"""


class Apache(Daemon):
    """WebDAV behind a user ``u`` with password ``pw``.

    Args:
        kind: ``Basic`` or ``Digest``.
        more: further directives for the directory, such as a ``<Limit>``.
    """

    name = "apache"
    user = "u"
    password = "pw"

    def __init__(self, home: Path, *, kind: str = "Basic", more: str = "") -> None:
        if os.geteuid() == 0:  # its workers are another user, whom pytest's directories shut out
            home = Path(tempfile.mkdtemp(prefix="vfsstream-apache-"))
            weakref.finalize(self, shutil.rmtree, home, True)
            home.chmod(0o755)
        super().__init__(home)
        self.program = find_program("apache2", "apache2")
        self.data = home / "data"
        for directory in (self.data, home / "run"):
            directory.mkdir(exist_ok=True)
        (home / "users").write_text(self._users(kind))
        modules = Path("/usr/lib/apache2/modules")
        names = [name for name in _MODULES.split() if (modules / f"mod_{name}.so").exists()]
        account = ""
        if os.geteuid() == 0:
            account = "User nobody\nGroup nogroup"
            for path in (self.data, home / "run"):
                shutil.chown(path, "nobody", "nogroup")
        (home / "httpd.conf").write_text(
            _CONFIG.format(
                home=home,
                port=self.port,
                data=self.data,
                kind=kind,
                more=more,
                account=account,
                load="\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names),
            )
        )

    def _users(self, kind: str) -> str:
        if kind == "Digest":
            return f"u:dav:{hashlib.md5(b'u:dav:pw').hexdigest()}\n"
        return "u:{SHA}" + base64.b64encode(hashlib.sha1(b"pw").digest()).decode() + "\n"

    def command(self) -> list[str]:
        return [self.program, "-d", str(self.home), "-f", str(self.home / "httpd.conf"), "-DFOREGROUND"]

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica."""
        return f"webdav://{self.user}:{self.password}@127.0.0.1:{port or self.port}/{name}"

    @property
    def options(self) -> dict[str, str]:
        """Nothing: the URL says it all."""
        return {}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {
            "type": "webdav",
            "webdav-url": f"http://127.0.0.1:{port or self.port}",
            "webdav-username": self.user,
            "webdav-password": self.password,
            "path": f"/{name}",
        }
