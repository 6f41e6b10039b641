"""Where a bucket answers and who asks, when that needs none of the SDK's models; they take a third of a second.

What is not plain here (access points, partitions, profiles, roles, metadata services) is left to the SDK, whose
answers these functions give in the plain cases.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.s3_sign import Keys

__all__ = ["Place", "plain_keys", "plain_place"]

_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{1,61})[A-Za-z0-9]")
_AS_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,61})[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_AMAZON_REGION = re.compile(r"(?:us|eu|ap|sa|ca|me|af|il|mx)-(?!gov-|iso)[a-z]+-[0-9]")
_NETLOC = re.compile(r"[a-z0-9.-]+(?::[0-9]+)?")

_PROFILE = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_OTHER_HOSTS = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
_OTHER_RULES = (
    *_PROFILE,
    *_OTHER_HOSTS,
    "AWS_CONFIG_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
)


class Place(NamedTuple):
    """Where requests go.

    Attributes:
        base: URL before the key.
        region: to sign for.
    """

    base: str
    region: str


def plain_keys(settings: S3Settings, environment: Mapping[str, str]) -> Keys | None:
    """Credentials that stand in the settings or the environment; ``None`` leaves them to the SDK's chain."""
    if settings.access_key and settings.secret_key:
        return Keys(settings.access_key, settings.secret_key, settings.session_token)
    access, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret or any(environment.get(name) for name in (*_PROFILE, "AWS_CREDENTIAL_EXPIRATION")):
        return None
    token = environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN")
    return Keys(access, secret, token or None)


def plain_place(settings: S3Settings, environment: Mapping[str, str], region: str | None) -> Place | None:
    """Where a bucket answers; ``None`` leaves it to the SDK's rules.

    Args:
        region: of the bucket. Without one, where the bucket of Amazon's is asked for it.
    """
    region = region or "us-east-1"
    bucket = settings.bucket
    if not _BUCKET.fullmatch(bucket) or "--" in bucket or not _REGION.fullmatch(region) or region == "aws-global":
        return None
    if settings.endpoint is not None:
        return _beside_endpoint(settings, settings.endpoint, environment, region)
    if (
        settings.path_style
        or not _AS_HOST.fullmatch(bucket)
        or not _AMAZON_REGION.fullmatch(region)
        or any(environment.get(name) for name in _OTHER_RULES)
        or os.path.exists(os.path.expanduser("~/.aws/config"))
    ):
        return None
    host = "s3" if region == "us-east-1" else f"s3.{region}"
    return Place(f"https://{bucket}.{host}.amazonaws.com/", region)


def _beside_endpoint(
    settings: S3Settings, endpoint: str, environment: Mapping[str, str], region: str
) -> Place | None:
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if (
        not _NETLOC.fullmatch(parts.netloc)
        or parts.query
        or host.endswith(("amazonaws.com", "amazonaws.com.cn"))
        or any(environment.get(name) for name in _OTHER_HOSTS)
    ):
        return None
    path = parts.path.rstrip("/")
    if settings.path_style:
        return Place(f"{parts.scheme}://{parts.netloc}{path}/{settings.bucket}/", region)
    if settings.path_style is None or not _AS_HOST.fullmatch(settings.bucket) or _is_address(host):
        return None
    return Place(f"{parts.scheme}://{settings.bucket}.{parts.netloc}{path}/", region)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
