"""Where an S3 replica lies and how to talk to it: URL, configuration keys and environment, decided once."""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vfsstream.errors import UrlError
from vfsstream.stores.options import Options, parse_endpoint, parse_size
from vfsstream.stores.s3_providers import HOST_FORMS, Provider, provider_for
from vfsstream.stores.url import StoreUrl

__all__ = ["MIN_PART_SIZE", "S3Settings", "resolve"]

MIN_PART_SIZE = 5 << 20
_CONCURRENCY = 5
_PARAMETERS = frozenset(
    [
        "endpoint",
        "region",
        "force-path-style",
        "forcePathStyle",
        "skip-verify",
        "skipVerify",
        "sign-payload",
        "signPayload",
        "sign-accept-encoding",
        "signAcceptEncoding",
        "require-content-md5",
        "requireContentMD5",
        "part-size",
        "partSize",
        "concurrency",
        "storage-class",
        "storageClass",
        "sse-customer-algorithm",
        "sseCustomerAlgorithm",
        "sse-customer-key",
        "sseCustomerKey",
        "sse-customer-key-md5",
        "sseCustomerKeyMD5",
        "sse-kms-key-id",
        "sseKmsKeyId",
    ]
)

log = logging.getLogger("vfsstream.stores")


@dataclass(frozen=True, slots=True, repr=False)
class S3Settings:
    """Everything that decides about a request. Hashable: stores of equal settings share connections.

    Attributes:
        bucket: name, or the ARN of an access point.
        path: goes before every key, joined by a slash and never cleaned.
        endpoint: URL, or ``None`` for Amazon's own (or the one of the AWS environment).
        region: or ``None`` to ask for the bucket's.
        path_style: the bucket in the path; ``None`` leaves it to the SDK.
        access_key, secret_key, session_token: static credentials, or ``None`` for the SDK's chain.
        sse_customer_key: the 32 bytes, or ``None``.
        part_size: bytes; a larger object goes up in parts of this size.
    """

    bucket: str
    path: str
    provider: Provider
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    verify: bool = True
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    sign_payload: bool = True
    content_md5: bool = True
    part_size: int = MIN_PART_SIZE
    concurrency: int = _CONCURRENCY
    storage_class: str | None = None
    sse_customer_key: bytes | None = None
    sse_kms_key_id: str | None = None

    def __repr__(self) -> str:
        return f"<S3Settings {self.bucket}/{self.path} endpoint={self.endpoint} region={self.region}>"


def resolve(url: StoreUrl, keys: Mapping[str, str], environment: Mapping[str, str]) -> S3Settings:
    """Decide the settings of a replica.

    Raises:
        UrlError: no bucket, or a value that is impossible or cannot be honoured.
    """
    options = Options(keys, url.query)
    _refuse_unknown(url)
    bucket, place = _place(url, keys)
    endpoint = _endpoint(options, environment) or place.endpoint
    parts = urlsplit(endpoint) if endpoint else None
    host = parts.netloc if parts and "@" not in parts.netloc else ""
    provider = provider_for(host) if endpoint else provider_for("")
    access_key, secret_key, token = _credentials(options, environment)
    customer_key, kms_key = _encryption(options, endpoint)
    md5 = options.boolean("require-content-md5", "requireContentMD5", "require-content-md5")
    return S3Settings(
        bucket=bucket,
        path=url.path if url.text else keys.get("path", ""),
        provider=provider,
        endpoint=endpoint,
        region=options.text("region", "region") or place.region or _default_region(endpoint, environment),
        path_style=_path_style(options, environment, endpoint, place.path_style, provider),
        verify=not (
            options.boolean("", "skipVerify", "skip-verify") or options.boolean("skip-verify", "skipVerify")
        ),
        access_key=access_key,
        secret_key=secret_key,
        session_token=token,
        sign_payload=options.boolean("sign-payload", "signPayload", "sign-payload") is not False,
        content_md5=provider.content_md5 if md5 is None else md5,
        part_size=_part_size(options),
        concurrency=options.integer("concurrency", "concurrency", default=provider.concurrency or _CONCURRENCY),
        storage_class=options.text("storage-class", "storageClass", "storage-class") or None,
        sse_customer_key=customer_key,
        sse_kms_key_id=kms_key,
    )


def _refuse_unknown(url: StoreUrl) -> None:
    """A parameter nobody knows is warned of, as Litestream ignores it; unless it asked for encryption."""
    for name in sorted(set(url.query) - _PARAMETERS):
        if name.lower().startswith("sse"):
            known = " ".join(sorted(known for known in _PARAMETERS if known.startswith("sse")))
            raise UrlError(f"unknown parameter {name!r} in an s3:// URL", hint=f"known: {known}")
        log.warning(
            "unknown parameter %r in an s3:// URL is ignored; known: %s", name, " ".join(sorted(_PARAMETERS))
        )


@dataclass(frozen=True, slots=True)
class _Place:
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None


def _place(url: StoreUrl, keys: Mapping[str, str]) -> tuple[str, _Place]:
    """The bucket, and what the host of the URL says besides."""
    if not url.text:
        if not keys.get("bucket"):
            raise UrlError("no bucket for an s3 replica", hint="set bucket or url")
        return keys["bucket"], _Place()
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if not host:
        raise UrlError(f"no bucket in replica URL {url.text!r}", hint="s3://BUCKET/PATH")
    if host.startswith("arn:"):
        return host, _Place(region=host.split(":")[3] or None)
    for form in HOST_FORMS:
        match = re.fullmatch(form.pattern, host)
        if match:
            region = match.groupdict().get("region") or form.region
            return match["bucket"], _Place(form.endpoint and form.endpoint(match), region, form.path_style)
    if url.port is not None:
        raise UrlError(
            f"no bucket in host {host!r} of the replica URL",
            hint=f"s3://BUCKET/PATH?endpoint=http://{host}",
        )
    return host, _Place()


def _endpoint(options: Options, environment: Mapping[str, str]) -> str | None:
    by_key = options.keys.get("endpoint", "")
    text = by_key or options.asked("endpoint") or environment.get("LITESTREAM_S3_ENDPOINT", "")
    if not text:
        return None
    if "://" not in text:
        # Litestream reads the configuration key as https whatever the host, the others by the kind of host.
        text = f"{'https' if by_key or not _is_private(_host_of(text)) else 'http'}://{text}"
    return parse_endpoint(text)


def _host_of(text: str) -> str:
    """Of an endpoint without scheme; empty when it is none."""
    try:
        return urlsplit("//" + text).hostname or ""
    except ValueError:
        return ""


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith((".local", ".localhost")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (address.is_private and not address.is_link_local)


def _default_region(endpoint: str | None, environment: Mapping[str, str]) -> str | None:
    """With an endpoint of one's own the region is a formality; without one the bucket is asked."""
    if endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"):
        return "us-east-1"
    return None


def _path_style(
    options: Options,
    environment: Mapping[str, str],
    endpoint: str | None,
    by_host: bool | None,
    provider: Provider,
) -> bool | None:
    said = options.boolean("force-path-style", "forcePathStyle", "force-path-style")
    if said is not None:
        return said
    if by_host is not None:
        return by_host
    named = options.text("endpoint", "endpoint") or environment.get("LITESTREAM_S3_ENDPOINT")
    if named or provider.path_style:
        return True
    return False if endpoint else None


def _credentials(options: Options, environment: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    access, secret = options.keys.get("access-key-id"), options.keys.get("secret-access-key")
    if bool(access) != bool(secret):
        given, wanted = (
            ("access-key-id", "secret-access-key") if access else ("secret-access-key", "access-key-id")
        )
        raise UrlError(f"{given} without {wanted}", hint="set both, or neither to use the AWS credential chain")
    if access and secret:
        return access, secret, options.keys.get("session-token") or None
    access = environment.get("LITESTREAM_ACCESS_KEY_ID")
    secret = environment.get("LITESTREAM_SECRET_ACCESS_KEY")
    if access and secret and not environment.get("AWS_ACCESS_KEY_ID"):
        return access, secret, None
    return None, None, None


def _part_size(options: Options) -> int:
    if options.keys.get("part-size"):
        size = parse_size(options.keys["part-size"], "part-size")
    else:
        size = options.integer("", "partSize", "part-size", default=MIN_PART_SIZE)
    if not MIN_PART_SIZE <= size <= 5 << 30:
        raise UrlError(f"part-size is {size} bytes", hint="5 MiB to 5 GiB")
    return size


def _encryption(options: Options, endpoint: str | None) -> tuple[bytes | None, str | None]:
    algorithm = options.text("sse-customer-algorithm", "sseCustomerAlgorithm", "sse-customer-algorithm")
    key = options.text("sse-customer-key", "sseCustomerKey", "sse-customer-key")
    kms = options.text("sse-kms-key-id", "sseKmsKeyId", "sse-kms-key-id") or None
    path = options.keys.get("sse-customer-key-path")
    if path:
        key = _read_key(path)
    if not key:
        if algorithm:
            raise UrlError("sse-customer-algorithm without a key", hint="set sse-customer-key or -key-path")
        return None, kms
    if kms:
        raise UrlError("both sse-customer-key and sse-kms-key-id are given", hint="encrypt with one of them")
    if algorithm and algorithm != "AES256":
        raise UrlError(f"sse-customer-algorithm is {algorithm!r}", hint="only AES256 exists")
    if endpoint and endpoint.startswith("http://") and not _is_private(urlsplit(endpoint).hostname or ""):
        raise UrlError("sse-customer-key would be sent in the clear", hint="use an https endpoint")
    try:
        secret = base64.b64decode(key, validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise UrlError("sse-customer-key is not base64", hint="base64 of 32 random bytes") from None
    if len(secret) != 32:
        raise UrlError(f"sse-customer-key has {len(secret)} bytes", hint="base64 of 32 random bytes")
    return secret, None


def _read_key(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError) as error:
        raise UrlError(f"sse-customer-key-path {path!r}: {error}", hint="a file with the key in base64") from error
