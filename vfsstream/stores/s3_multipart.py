"""Multipart uploads to S3: parts in parallel, each tried again by itself, the whole aborted when it fails."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vfsstream.errors import AlreadyExists, NotFound, VfsstreamError
from vfsstream.stores.retry import RetryPolicy, call_with_retry, finish_with_retry
from vfsstream.stores.s3_client import S3Client
from vfsstream.stores.s3_sdk import sdk_errors
from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.upload import Part, send_parts

__all__ = ["put_multipart"]

_POLICY = RetryPolicy()
_MD5 = re.compile(r"[0-9a-f]{32}")


def put_multipart(
    client: S3Client,
    settings: S3Settings,
    key: str,
    first: Part,
    rest: Iterator[Part],
    metadata: Mapping[str, str],
    if_absent: bool,
) -> tuple[int, str]:
    """Upload an object in parts; returns its size and ETag.

    Args:
        key: the whole key.
        first, rest: the parts.

    Raises:
        AlreadyExists: ``if_absent`` and the key is taken.
    """
    where = {"Bucket": settings.bucket, "Key": key}
    sizes: list[int] = []

    what = f"write s3://{settings.bucket}/{key}"

    def ask(operation: str, arguments: Mapping[str, Any]) -> Any:
        with sdk_errors("write", settings.bucket, key):
            return getattr(client.sdk, operation)(**where, **arguments)

    def call(operation: str, arguments: Mapping[str, Any]) -> Any:
        return call_with_retry(lambda: ask(operation, arguments), _POLICY, what)

    upload = {"UploadId": call("create_multipart_upload", _create_arguments(settings, metadata))["UploadId"]}
    customer_key = _customer_key(settings)

    def send(part: Part) -> Mapping[str, Any]:
        sizes.append(len(part.data))
        arguments = {**upload, **customer_key, "PartNumber": part.number, "Body": part.data}
        answer = call("upload_part", arguments)
        return {
            "PartNumber": part.number,
            "ETag": answer["ETag"],
            **{name: value for name, value in answer.items() if name.startswith("ChecksumCRC")},
        }

    try:
        parts = send_parts(chain([first], rest), send, settings.concurrency)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        if if_absent and _exists(call, customer_key):  # older servers ignore the condition here
            raise AlreadyExists(key)
        arguments = {**upload, **customer_key, **condition, "MultipartUpload": {"Parts": parts}}
        expected = _Made(sum(sizes), [str(part["ETag"]) for part in parts])

        def made() -> Mapping[str, Any] | None:
            there: Mapping[str, Any] = call("head_object", customer_key)
            return there if expected.is_it(there) else None

        answer = finish_with_retry(
            lambda: ask("complete_multipart_upload", arguments), _POLICY, what, gone="NoSuchUpload", made=made
        )
    except BaseException:
        with contextlib.suppress(VfsstreamError):  # what failed matters more
            call("abort_multipart_upload", upload)
        raise
    return sum(sizes), str(answer["ETag"])


@dataclass(frozen=True, slots=True)
class _Made:
    """What the object of this upload must be: its size and the tags of its parts."""

    size: int
    tags: Sequence[str]

    def is_it(self, there: Mapping[str, Any]) -> bool:
        """Whether an object is of these parts. Its tag says so: the MD5 of those of its parts, and their number."""
        digests = [tag.strip('"') for tag in self.tags]
        if there["ContentLength"] != self.size or not all(_MD5.fullmatch(digest) for digest in digests):
            return False
        joined = hashlib.md5(b"".join(map(bytes.fromhex, digests)), usedforsecurity=False).hexdigest()
        return str(there.get("ETag", "")).strip('"') == f"{joined}-{len(digests)}"


def _exists(call: Callable[..., Any], customer_key: Mapping[str, Any]) -> bool:
    try:
        call("head_object", customer_key)
    except NotFound:
        return False
    return True


def _customer_key(settings: S3Settings) -> dict[str, Any]:
    key = settings.sse_customer_key
    return {} if key is None else {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def _create_arguments(settings: S3Settings, metadata: Mapping[str, str]) -> dict[str, Any]:
    arguments = {
        "Metadata": dict(metadata),
        "ContentType": "application/octet-stream",
        **_customer_key(settings),
    }
    if settings.sse_kms_key_id:
        arguments |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.sse_kms_key_id}
    if settings.storage_class:
        arguments["StorageClass"] = settings.storage_class
    return arguments
