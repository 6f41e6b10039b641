"""Reads the configuration: file, expansion, environment, checks."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vfsstream.config.build import apply_environment, build
from vfsstream.config.checks import check
from vfsstream.config.schema import Config, Database, ReplicaConfig
from vfsstream.config.text import compose, expand
from vfsstream.errors import ConfigError

__all__ = ["DEFAULT_PATH", "config_path", "load_config", "load_pair", "load_text"]

DEFAULT_PATH = "/etc/litestream.yml"


def config_path(given: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The absolute path of the file to read: the flag, ``$LITESTREAM_CONFIG``, ``/etc/litestream.yml``."""
    environ = os.environ if environ is None else environ
    path = given or environ.get("LITESTREAM_CONFIG") or DEFAULT_PATH
    return os.path.abspath(os.path.expanduser(path) if path.startswith("~/") else path)


def load_config(
    path: str | None = None, *, environ: Mapping[str, str] | None = None, expand_env: bool = True
) -> Config:
    """The configuration of a file and of ``VFSSTREAM__…`` variables.

    Without a file the variables alone make one, when there are any and no path was given.

    Raises:
        ConfigError: file, line and key of what is wrong.
    """
    environ = os.environ if environ is None else environ
    where = config_path(path, environ)
    try:
        with open(where, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", path=where) from None
    except FileNotFoundError:
        if path is None and any(name.startswith("VFSSTREAM__") for name in environ):
            return load_text("", "", environ=environ, expand_env=False)
        hint = "give another with -config, or $LITESTREAM_CONFIG"
        raise ConfigError(f"config file not found: {where}", hint=hint) from None
    except OSError as error:
        raise ConfigError(f"cannot read the config file: {error.strerror}", path=where) from None
    return load_text(text, where, environ=environ, expand_env=expand_env)


def load_text(text: str, path: str, *, environ: Mapping[str, str], expand_env: bool = True) -> Config:
    """Like :func:`load_config`, of a text in memory."""
    config = build(compose(expand(text, environ) if expand_env else text, path), path)
    apply_environment(config, environ)
    check(config)
    return config


def load_pair(path: str, url: str, *, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of one database and its replica given on the command line.

    Raises:
        ConfigError: a URL that cannot be used, or an environment variable that is wrong.
    """
    config = Config()
    config.dbs.append(Database(path=path, replica=ReplicaConfig(url=url)))
    apply_environment(config, os.environ if environ is None else environ)
    check(config)
    return config
