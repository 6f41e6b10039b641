"""Multipart uploads to S3: parts in parallel, each tried again by itself, the whole aborted when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, cast

from vfsstream.errors import StoreError, VfsstreamError
from vfsstream.stores.retry import RetryPolicy, call_with_retry
from vfsstream.stores.s3_client import S3Client, sdk_errors
from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.upload import Part, send_parts

__all__ = ["put_multipart"]

_POLICY = RetryPolicy()


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

    def call(operation: str, arguments: Mapping[str, Any]) -> Any:
        def once() -> Any:
            with sdk_errors("write", settings.bucket, key):
                return getattr(client.sdk, operation)(**where, **arguments)

        return call_with_retry(once, _POLICY, f"write s3://{settings.bucket}/{key}")

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
        arguments = {**upload, **customer_key, **condition, "MultipartUpload": {"Parts": parts}}
        answer = _complete(call, arguments, sum(sizes), customer_key)
    except BaseException:
        with contextlib.suppress(VfsstreamError):  # what failed matters more
            call("abort_multipart_upload", upload)
        raise
    return sum(sizes), str(answer["ETag"])


def _complete(
    call: Callable[[str, Mapping[str, Any]], Any],
    arguments: Mapping[str, Any],
    size: int,
    customer_key: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Make the object of its parts. A try whose answer was lost may have done so: the next finds no upload."""
    try:
        return cast(Mapping[str, Any], call("complete_multipart_upload", arguments))
    except StoreError as error:
        if "NoSuchUpload" not in error.message:
            raise
        there = call("head_object", customer_key)
        if there["ContentLength"] != size:
            raise
        return cast(Mapping[str, Any], there)


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
