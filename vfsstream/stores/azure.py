"""Azure Blob storage as a store: Microsoft's SDK for uploads and listings, reads over our pooled HTTP."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError, UrlError, VfsstreamError
from vfsstream.stores.azure_sign import AzureSigner
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store
from vfsstream.stores.byterange import range_header, taken
from vfsstream.stores.deadline import time_left
from vfsstream.stores.extras import require
from vfsstream.stores.http import CONNECT_TIMEOUT, READ_TIMEOUT, HttpPool, is_retryable_status
from vfsstream.stores.metadata import from_store, to_store
from vfsstream.stores.once import Once
from vfsstream.stores.options import parse_endpoint
from vfsstream.stores.retry import RetryPolicy, call_with_retry, finish_with_retry
from vfsstream.stores.upload import Part, send_parts, upload_parts
from vfsstream.stores.url import key_prefix

if TYPE_CHECKING:
    from vfsstream.stores.url import StoreUrl

__all__ = ["AzureStore", "open_url"]

_TIMESTAMP_META = "litestreamtimestamp"  # Azure allows no hyphen
_BLOCK = 4 << 20
_POOL = 64
_BATCH = 256
_CONCURRENCY = 4


def open_url(url: StoreUrl, options: Mapping[str, str]) -> AzureStore:
    """The store that an ``abs://`` URL names. No request is made.

    Raises:
        UrlError: no container, or no account and no endpoint.
        MissingExtra: the SDK is not installed.
    """
    require("azure.storage.blob", "azure", "abs:// replicas")
    require("urllib3", "azure", "abs:// replicas")
    container = url.host if url.text else options.get("bucket", "")
    if not container:
        raise UrlError("no container for an abs replica", hint="abs://ACCOUNT@CONTAINER/PATH")
    account = options.get("account-name") or url.user or ""
    endpoint = options.get("endpoint", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    if not endpoint and not account:
        raise UrlError("no account for an abs replica", hint="abs://ACCOUNT@CONTAINER/PATH, or set account-name")
    sas = (options.get("sas-token") or os.environ.get("LITESTREAM_AZURE_SAS_TOKEN") or "").lstrip("?")
    key = "" if sas else options.get("account-key") or os.environ.get("LITESTREAM_AZURE_ACCOUNT_KEY") or ""
    if endpoint:
        endpoint = parse_endpoint(endpoint)
    _check_key(key)
    if key and not account:
        raise UrlError(
            "an account key without an account", hint="abs://ACCOUNT@CONTAINER/PATH, or set account-name"
        )
    if not sas and not key:
        require("azure.identity", "azure", "abs:// replicas without a key or SAS")
    endpoint = endpoint or f"https://{account}.blob.core.windows.net"
    return AzureStore(container, key_prefix(url, options), endpoint, account=account, key=key, sas=sas)


def _check_key(key: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except ValueError as error:
        raise UrlError("account-key is not base64", hint="copy the key of the account as it is shown") from error


class AzureStore(Store):
    """Block blobs of one container below one prefix.

    Args:
        prefix: goes before every key; empty, or ends with a slash.
        endpoint: URL of the account.
        key: shared key; else ``sas``; else the default chain of Azure's identities.
    """

    kind = "abs"
    capabilities = Capabilities(
        can_start_after=True,
        can_put_if_absent=True,
        cheap_miss=True,
        listing_has_timestamp=True,
        max_concurrency=_POOL,
        min_part_size=_BLOCK,
    )

    def __init__(
        self, container: str, prefix: str, endpoint: str, *, account: str = "", key: str = "", sas: str = ""
    ) -> None:
        self.container, self.prefix, self.account = container, prefix, account
        self._endpoint, self._key, self._sas = endpoint.rstrip("/"), key, sas
        self._connection = Once(self._connect, "the connection to Azure")
        self._signer = Once(self._make_signer, "the credentials of Azure")
        self._pool = HttpPool(size=_POOL)
        self._starts_on_server = True

    def _connect(self) -> Any:
        import requests
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import ContainerClient

        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=_POOL)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        credential: Any = self._sas or None
        if self._key:
            credential = {"account_name": self.account, "account_key": self._key}
        elif not self._sas:
            credential = _identity()
        return ContainerClient(
            self._endpoint,
            self.container,
            credential=credential,
            transport=RequestsTransport(session=session),
            retry_total=0,
            max_single_put_size=64 << 20,
            max_single_get_size=64 << 20,
            max_chunk_get_size=64 << 20,
        )

    def _make_signer(self) -> AzureSigner:
        credential = None if self._key or self._sas else _identity()
        return AzureSigner(f"{self._endpoint}/{self.container}", self.account, self._key, self._sas, credential)

    def _blob(self, key: str) -> Any:
        return self._connection.get().get_blob_client(self.prefix + key)

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if offset < 0:  # the protocol has no range from the end
            if size is not None:
                raise ValueError("a range from the end reads to the end: size must be None")
            total = self.head(key).size
            offset = max(0, total + offset)
            if total == 0:
                return Fetched(b"", 0)
        byte_range = range_header(offset, size)
        signer = self._signer.get()
        if self._key or self._sas:
            url, headers = signer.read(self.prefix + key, byte_range)
        else:
            with self._errors("read", key):
                url, headers = signer.read(self.prefix + key, byte_range)
        answer = self._pool.send("GET", url, headers=headers)
        if answer.status == 206 and not answer.body and self.head(key).size == 0:
            return Fetched(b"", 0)  # of an empty blob no part can be stated
        if answer.status in (200, 206):
            return taken(answer.status, answer.headers, answer.body, offset, size, f"{self.describe()}/{key}")
        if answer.status == 416:
            return Fetched(b"", None)
        code = answer.headers.get("x-ms-error-code", "")
        raise self._meaning(answer.status, code, "", "read", key)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        first = self.fetch(key, offset, _BLOCK)
        return self._pieces(key, offset, first)

    def _pieces(self, key: str, position: int, piece: Fetched) -> Iterator[bytes]:
        """One request for each piece: nothing stays open while the reader is busy elsewhere."""
        while piece.data:
            yield piece.data
            position += len(piece.data)
            if piece.total_size is not None and position >= piece.total_size:
                return
            piece = self.fetch(key, position, _BLOCK)

    def head(self, key: str) -> ObjectInfo:
        with self._errors("stat", key):
            return self._info(self._blob(key).get_blob_properties(**_limits()))

    # Listing

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        more: dict[str, Any] = {}
        if start_after is not None and self._starts_on_server:
            more["start_from"] = self.prefix + start_after
        try:
            listing = self._list(prefix, start_after, more)
            first = next(listing, None)
        except (StoreError, TypeError) as error:
            if not more or (isinstance(error, StoreError) and (error.retryable or "400" not in error.message)):
                raise
            self._starts_on_server = False  # an older service or SDK
            listing = self._list(prefix, start_after, {})
            first = next(listing, None)
        return iter(()) if first is None else chain([first], listing)

    def _list(self, prefix: str, start_after: str | None, more: Mapping[str, Any]) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            blobs = self._connection.get().list_blobs(
                name_starts_with=self.prefix + prefix, include=["metadata"], **more, **_limits()
            )
            pages = blobs.by_page()
        while True:
            with self._errors("list", prefix):
                page = next(pages, None)
                found = None if page is None else [self._info(blob) for blob in page]
            if found is None:
                return
            for info in found:
                nested = "/" in info.key[len(prefix) :]
                if not nested and info.key != prefix and (start_after is None or info.key > start_after):
                    yield info

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        full = self.prefix + prefix
        with self._errors("list", prefix):
            walk = self._connection.get().walk_blobs(name_starts_with=full, delimiter="/", **_limits())
            names = [item.name for item in walk if item.name.endswith("/")]
        return iter(sorted(name[len(full) :].rstrip("/") for name in names))

    def _info(self, blob: Any) -> ObjectInfo:
        user = from_store(blob.metadata, _TIMESTAMP_META)
        modified = blob.last_modified.astimezone(UTC) if blob.last_modified else None
        return ObjectInfo(blob.name[len(self.prefix) :], blob.size, modified, user, blob.etag)

    # Writing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        from azure.core import MatchConditions
        from azure.storage.blob import ContentSettings, StandardBlobTier

        user = to_store(metadata, _TIMESTAMP_META)
        blob = self._blob(key)
        content = ContentSettings(content_type="application/octet-stream")
        settings: dict[str, Any] = {
            "metadata": user,
            "content_settings": content,
            "standard_blob_tier": StandardBlobTier.HOT,
        }
        parts = upload_parts(source, _BLOCK)
        first = next(parts)
        if first.last:
            with self._errors("write", key):
                answer = blob.upload_blob(
                    first.data, length=len(first.data), overwrite=not if_absent, **settings, **_limits()
                )
            return ObjectInfo(key, len(first.data), datetime.now(UTC), dict(metadata or {}), answer.get("etag"))
        digest = hashlib.md5(usedforsecurity=False)
        sizes = self._send_blocks(blob, key, _digested(chain([first], parts), digest))
        content.content_md5 = bytearray(digest.digest())
        if if_absent:
            settings["match_condition"] = MatchConditions.IfMissing
        etag = self._commit(blob, key, sizes, digest.digest(), settings)
        return ObjectInfo(key, sum(sizes), datetime.now(UTC), dict(metadata or {}), etag)

    def _commit(
        self, blob: Any, key: str, sizes: Sequence[int], digest: bytes, settings: Mapping[str, Any]
    ) -> str:
        """Make the blob of its blocks."""

        def finish() -> str:
            with self._errors("write", key):
                names = [_block_name(number) for number in range(1, len(sizes) + 1)]
                return str(blob.commit_block_list(names, **settings, **_limits()).get("etag"))

        def made() -> str | None:
            with self._errors("write", key):
                there = blob.get_blob_properties(**_limits())
            ours = there.size == sum(sizes) and bytes(there.content_settings.content_md5 or b"") == digest
            return str(there.etag) if ours else None

        what = f"write {self.describe()}/{key}"
        return finish_with_retry(finish, RetryPolicy(), what, gone="InvalidBlockList", made=made)

    def _send_blocks(self, blob: Any, key: str, parts: Iterator[Part]) -> Sequence[int]:
        def send(part: Part) -> int:
            def once() -> int:
                with self._errors("write", key):
                    blob.stage_block(_block_name(part.number), part.data, length=len(part.data), **_limits())
                return len(part.data)

            return call_with_retry(once, RetryPolicy(), f"write {self.describe()}/{key}")

        return send_parts(parts, send, _CONCURRENCY)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        if len(wanted) == 1:
            with contextlib.suppress(NotFound), self._errors("delete", wanted[0]):
                self._blob(wanted[0]).delete_blob(**_limits())
            return
        denied: AccessDenied | None = None
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            with self._errors("delete", batch[0]):
                answers = self._connection.get().delete_blobs(
                    *(self.prefix + key for key in batch), raise_on_any_failure=False, **_limits()
                )
                for key, answer in zip(batch, answers, strict=False):
                    status = answer.status_code
                    if status in (401, 403):
                        code = answer.headers.get("x-ms-error-code") or f"HTTP {status}"
                        denied = AccessDenied(f"cannot delete {self.describe()}/{key}: {code}", hint=_GRANT)
                    elif status not in (200, 202, 404):
                        retryable = is_retryable_status(status)
                        raise StoreError(
                            f"cannot delete {self.describe()}/{key}: HTTP {status}", retryable=retryable
                        )
        if denied is not None:
            raise denied

    # Errors

    @contextlib.contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        from azure.core import exceptions as azure

        what = f"cannot {action} {self.describe()}/{key}".rstrip("/")
        try:
            yield
        except azure.HttpResponseError as error:
            code = getattr(error, "error_code", None) or ""
            code = str(getattr(code, "value", code))
            if isinstance(error, azure.ClientAuthenticationError) and not error.status_code:
                raise AccessDenied(
                    f"{what}: {error.message}", hint="set account-key, sas-token, or log in"
                ) from error
            raise self._meaning(error.status_code or 0, code, str(error.message), action, key) from error
        except (azure.ServiceRequestError, azure.ServiceResponseError, azure.IncompleteReadError) as error:
            raise StoreError(f"{what}: {_cause(error)}", retryable=True) from error
        except azure.AzureError as error:
            raise StoreError(f"{what}: {error}") from error

    def _meaning(self, status: int, code: str, message: str, action: str, key: str) -> VfsstreamError:
        what = f"cannot {action} {self.describe()}/{key}".rstrip("/")
        said = code or message.partition("\n")[0]
        if code in ("BlobAlreadyExists", "ConditionNotMet") or status == 412:
            return AlreadyExists(key)
        if code == "ContainerNotFound":
            return StoreError(f"{what}: the container does not exist", hint="create it, or check its name")
        if status == 404:
            return NotFound(key)
        if status in (401, 403):
            return AccessDenied(f"{what}: {said}", hint=_expiry(self._sas) or _HINTS.get(code, _GRANT))
        retryable = status == 0 or is_retryable_status(status)
        return StoreError(f"{what}: HTTP status {status}: {said}".rstrip(": "), retryable=retryable)

    def describe(self) -> str:
        account = f"{self.account}@" if self.account else ""
        return f"abs://{account}{self.container}/{self.prefix}".rstrip("/")

    def close(self) -> None:
        self._pool.close()
        client = self._connection.made
        if client is not None:
            client.close()


_GRANT = "grant the role Storage Blob Data Contributor, or a SAS with read, write, delete and list"
_HINTS = {
    "AuthenticationFailed": "check account-key, or whether the SAS has expired",
    "AuthorizationFailure": "check account-key, the role or SAS (read, write, delete, list), and the firewall",
}


def _expiry(sas: str) -> str | None:
    """What to say of a SAS that is past its time."""
    end = parse_qs(sas).get("se", [""])[0]
    try:
        over = bool(end) and datetime.fromisoformat(end).astimezone(UTC) < datetime.now(UTC)
    except ValueError:
        return None
    return f"the SAS has expired on {end}: get a fresh one" if over else None


def _identity() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _limits() -> dict[str, float]:
    return {"connection_timeout": time_left(CONNECT_TIMEOUT), "read_timeout": time_left(READ_TIMEOUT)}


def _digested(parts: Iterator[Part], digest: Any) -> Iterator[Part]:
    for part in parts:
        digest.update(part.data)
        yield part


def _block_name(number: int) -> str:
    return base64.b64encode(b"%032d" % number).decode()


def _cause(error: BaseException) -> str:
    text = str(error)
    for sign in ("Connection refused", "Connection reset", "timed out", "Name or service not known"):
        if sign in text:
            return sign.lower()
    return text
