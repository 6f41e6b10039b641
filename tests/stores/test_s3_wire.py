"""What the S3 store sends, and what it makes of each answer."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.stores.wire import Reply, Wire, wire
from vfsstream.errors import AccessDenied, AlreadyExists, DeadlineExceeded, NotFound, StoreError
from vfsstream.stores import Store
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.s3 import S3Store
from vfsstream.stores.s3_providers import provider_for
from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.url import open_store

ONCE = RetryPolicy(attempts=1, deadline=30)
FAST = RetryPolicy(attempts=4, base_delay=0.001, max_delay=0.002, deadline=30)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("AWS_CA_BUNDLE", "AWS_SESSION_TOKEN", "AWS_PROFILE", "LITESTREAM_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with wire() as running:
        yield running


def opened(line: Wire, query: str = "", retry: RetryPolicy = ONCE, **keys: object) -> Store:
    url = f"s3://bkt/db?endpoint={line.endpoint}{'&' + query if query else ''}"
    return open_store(url, keys, retry=retry)


def error(status: int, code: str, message: str = "said so") -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, {"Content-Type": "application/xml"}, body.encode())


def ranged(data: bytes, start: int, total: int) -> Reply:
    return Reply(206, {"Content-Range": f"bytes {start}-{start + len(data) - 1}/{total}"}, data)


def test_every_read_carries_a_range_and_a_signature(line: Wire) -> None:
    store = opened(line)
    for call, wanted, part in (
        (lambda: store.get("0000/k"), "bytes=0-", ranged(b"x" * 100, 0, 100)),
        (lambda: store.get("0000/k", 5), "bytes=5-", ranged(b"x" * 95, 5, 100)),
        (lambda: store.get("0000/k", 5, 10), "bytes=5-14", ranged(b"x" * 10, 5, 100)),
        (lambda: store.get("0000/k", -24), "bytes=-24", ranged(b"x" * 24, 76, 100)),
    ):
        line.script = [part]
        call()
        seen = line.last()
        assert (seen.method, seen.target) == ("GET", "/bkt/db/0000/k")
        assert seen.headers["range"] == wanted
        assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert "range" in seen.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert "accept-encoding" not in seen.headers["authorization"]


def test_connections_are_kept(line: Wire) -> None:
    store = opened(line)
    line.default = ranged(b"x" * 4096, 0, 10**6)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.get("0000/k", 0, 4096), range(200)))
    assert line.connections <= 8
    twin = opened(line)
    twin.get("0000/other", 0, 4096)
    assert line.connections <= 9, "stores of equal settings share their connections"


def test_a_put(line: Wire) -> None:
    opened(line, "storageClass=STANDARD_IA").put(
        "0000/k", b"data", metadata={"timestamp": "2026-11-22T06:01:37.73Z"}
    )
    headers = line.last().headers
    assert headers["x-amz-meta-litestream-timestamp"] == "2026-11-22T06:01:37.73Z"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-amz-content-sha256"] == hashlib.sha256(b"data").hexdigest()
    assert headers["x-amz-storage-class"] == "STANDARD_IA"
    assert not {"content-encoding", "transfer-encoding", "expect", "content-md5"} & headers.keys()
    assert not [name for name in headers if "checksum" in name or "trailer" in name]


def test_an_unsigned_payload(line: Wire) -> None:
    opened(line, "signPayload=false").put("0000/k", b"data")
    assert line.last().headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_a_session_token(line: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    opened(line).put("0000/k", b"data")
    assert line.last().headers["x-amz-security-token"] == "temporary"


def test_customer_keys_go_with_every_request(line: Wire) -> None:
    key = b"k" * 32
    store = opened(line, **{"sse-customer-key": base64.b64encode(key).decode()})
    store.put("0000/k", b"data")
    line.script = [ranged(b"d", 0, 4), Reply(200, {"ETag": '"e"'})]
    store.get("0000/k", 0, 1)
    store.head("0000/k")
    for seen in line.seen:
        assert seen.headers["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
        assert base64.b64decode(seen.headers["x-amz-server-side-encryption-customer-key"]) == key
        digest = base64.b64decode(seen.headers["x-amz-server-side-encryption-customer-key-md5"])
        assert digest == hashlib.md5(key).digest()


def test_a_kms_key_goes_with_writes_only(line: Wire) -> None:
    store = opened(line, "sseKmsKeyId=alias/mine")
    store.put("0000/k", b"data")
    assert line.last().headers["x-amz-server-side-encryption"] == "aws:kms"
    assert line.last().headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/mine"
    line.script = [ranged(b"d", 0, 4)]
    store.get("0000/k", 0, 1)
    assert "x-amz-server-side-encryption" not in line.last().headers


DELETED = Reply(200, {"Content-Type": "application/xml"}, b"<DeleteResult></DeleteResult>")


def test_a_batch_deletion_carries_a_signed_md5(line: Wire) -> None:
    line.script = [DELETED, DELETED]
    opened(line).delete(["0000/a", "0000/b"])
    seen = line.last()
    assert seen.headers["content-md5"] == base64.b64encode(hashlib.md5(seen.body).digest()).decode()
    assert "content-md5" in seen.headers["authorization"]
    opened(line, "requireContentMD5=false").delete(["0000/a", "0000/b"])
    assert "content-md5" not in line.last().headers


def test_more_than_a_thousand_are_deleted_in_batches(line: Wire) -> None:
    line.default = DELETED
    opened(line).delete([f"0000/{n}" for n in range(2001)])
    assert [seen.body.count(b"<Key>") for seen in line.seen] == [1000, 1000, 1]


def test_some_that_may_not_be_deleted(line: Wire) -> None:
    refused = b"<Error><Key>db/0000/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    refused = b"<DeleteResult>%s</DeleteResult>" % refused
    line.script = [Reply(200, {"Content-Type": "application/xml"}, refused)]
    with pytest.raises(AccessDenied, match=r"0000/b.*1 of 2"):
        opened(line).delete(["0000/a", "0000/b"])


def test_a_server_without_batch_deletion(line: Wire) -> None:
    line.script = [error(501, "NotImplemented"), Reply(204), Reply(204)]
    opened(line).delete(["0000/a", "0000/b"])
    assert [seen.method for seen in line.seen] == ["POST", "DELETE", "DELETE"]


def test_tigris_is_asked_for_consistency_through_a_proxy(line: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", line.endpoint)
    store = open_store("s3://bkt/db?endpoint=http://fly.storage.tigris.dev", retry=ONCE)
    line.script = [ranged(b"d", 0, 4), DELETED]
    store.get("0000/k", 0, 1)
    store.delete(["0000/a", "0000/b"])
    assert [seen.headers["x-tigris-consistent"] for seen in line.seen] == ["true", "true"]
    assert "content-md5" not in line.last().headers
    assert line.seen[0].target.startswith("http://fly.storage.tigris.dev/bkt/db/")


def test_connections_made_under_another_proxy_are_not_shared(line: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    url, part = "s3://bkt/db?endpoint=http://storage.example", ranged(b"d", 0, 4)
    with wire() as other:
        line.default = other.default = part
        kept = []
        for proxy in (line, other):
            monkeypatch.setenv("http_proxy", proxy.endpoint)
            kept.append(open_store(url, retry=ONCE))
            kept[-1].get("0000/k", 0, 1)
        assert (len(line.seen), len(other.seen)) == (1, 1)


def test_a_listing_starts_on_the_server(line: Wire) -> None:
    line.script = [Reply(200, {"Content-Type": "application/xml"}, b"<ListBucketResult></ListBucketResult>")]
    assert list(opened(line).list("0000/", "0000/x~")) == []
    assert "list-type=2" in line.last().target
    assert "prefix=db%2F0000%2F" in line.last().target
    assert "start-after=db%2F0000%2Fx~" in line.last().target


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(408, "RequestTimeout"),
        error(400, "RequestTimeout"),
        error(499, "RequestCanceled"),
        Reply(502, {}, b"<html>bad gateway</html>"),
        Reply(206, {"Content-Range": "bytes 0-9/100"}, b"0123456789", cut=4),
    ],
)
def test_what_is_tried_again(line: Wire, answer: Reply) -> None:
    line.script = [answer, answer, ranged(b"0123456789", 0, 100)]
    assert opened(line, retry=FAST).get("0000/k", 0, 10) == b"0123456789"
    assert len(line.seen) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (error(404, "NoSuchKey"), NotFound, "0000/k"),
        (error(404, "NoSuchBucket"), StoreError, "bucket does not exist"),
        (error(403, "AccessDenied"), AccessDenied, "allow ListBucket"),
        (error(403, "InvalidAccessKeyId"), AccessDenied, "access-key-id"),
        (error(403, "SignatureDoesNotMatch"), AccessDenied, "secret-access-key"),
        (error(400, "ExpiredToken"), AccessDenied, "has expired"),
        (error(403, "RequestTimeTooSkewed"), AccessDenied, "clock"),
        (error(301, "PermanentRedirect"), StoreError, "set region"),
        (error(400, "AuthorizationHeaderMalformed"), StoreError, "set region"),
        (error(400, "InvalidArgument"), StoreError, "InvalidArgument"),
    ],
)
def test_what_is_an_answer(line: Wire, answer: Reply, kind: type[Exception], said: str) -> None:
    line.script = [answer]
    with pytest.raises(kind) as caught:
        opened(line, retry=FAST).get("0000/k", 0, 10)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(line.seen) == 1, "never tried again"


def test_a_stream_cut_short_resumes(line: Wire) -> None:
    data = bytes(range(256)) * 20_000
    whole = f"bytes 0-{len(data) - 1}/{len(data)}"
    line.script = [Reply(206, {"Content-Range": whole}, data, cut=len(data) // 2)]
    got = b""
    for chunk in opened(line, retry=FAST).stream("0000/k"):
        got += chunk
        line.default = ranged(data[len(got) :], len(got), len(data))
    assert got == data
    assert [seen.headers["range"] for seen in line.seen] == ["bytes=0-", f"bytes={len(data) // 2}-"], (
        "what came is used"
    )


def test_a_conditional_put(line: Wire) -> None:
    opened(line).put("0000/k", b"x", if_absent=True)
    assert line.last().headers["if-none-match"] == "*"
    line.script = [error(412, "PreconditionFailed")]
    with pytest.raises(AlreadyExists):
        opened(line).put("0000/k", b"x", if_absent=True)
    line.script = [error(409, "ConditionalRequestConflict")]
    opened(line, retry=FAST).put("0000/k", b"x", if_absent=True)
    assert len(line.seen) == 4


def test_a_put_without_an_etag_is_not_believed(line: Wire) -> None:
    line.script = [Reply(200)]
    with pytest.raises(StoreError, match="ETag"):
        opened(line).put("0000/k", b"x")


def test_a_failed_upload_is_aborted(line: Wire) -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    line.script = [Reply(200, {"Content-Type": "application/xml"}, begun)]
    line.default = error(403, "AccessDenied")
    with pytest.raises(AccessDenied):
        opened(line).put("0000/k", iter([b"x" * (6 << 20)]))
    assert line.last().method == "DELETE"
    assert "uploadId=u1" in line.last().target
    assert not [seen for seen in line.seen if "expect" in seen.headers], "no round trip to ask whether to send"


def test_a_server_that_ignores_ranges(line: Wire) -> None:
    line.default = Reply(200, {}, b"0123456789")
    store = opened(line)
    assert store.get("0000/k", 2, 3) == b"234"
    assert store.get("0000/k", -3) == b"789"
    assert b"".join(store.stream("0000/k", 4)) == b"456789"


def test_a_dead_endpoint_fails_within_the_deadline_and_says_so(line: Wire) -> None:
    with wire() as gone:
        pass
    store = opened(gone, retry=RetryPolicy(attempts=99, base_delay=0.05, max_delay=0.1, deadline=4))
    with pytest.raises(DeadlineExceeded, match="connection refused"):
        store.get("0000/k")
    with pytest.raises(DeadlineExceeded, match="connection refused"):
        list(store.list("0000/"))


def test_no_credentials(line: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
        opened(line).get("0000/k")
    assert line.seen == []


def _calls() -> list[Callable[[Store], object]]:
    return [lambda s: s.get("0000/k"), lambda s: list(s.list("0000/")), lambda s: s.put("0000/k", b"x")]


@pytest.mark.server
@pytest.mark.xdist_group("radosgw")
@pytest.mark.parametrize("call", _calls())
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"access-key-id": "AKIAUNKNOWNUNKNOWN00"}, "InvalidAccessKeyId"),
        ({"secret-access-key": "wrong"}, "SignatureDoesNotMatch"),
    ],
)
def test_wrong_keys_at_a_real_server(
    radosgw: object, call: Callable[[Store], object], keys: dict[str, str], said: str
) -> None:
    store = open_store(radosgw.url("db"), {**radosgw.options, **keys}, retry=FAST)  # type: ignore[attr-defined]
    with pytest.raises(AccessDenied, match=said) as caught:
        call(store)
    assert caught.value.hint


@pytest.mark.server
@pytest.mark.xdist_group("moto")
def test_a_reader_may_not_write(moto: object) -> None:
    admin = moto.sdk("iam")  # type: ignore[attr-defined]
    admin.create_user(UserName="reader")
    made = admin.create_access_key(UserName="reader")["AccessKey"]
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":"*"}]}'
    admin.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    open_store(moto.url("shared"), moto.options).put("0000/k", b"x")  # type: ignore[attr-defined]
    keys = {"access-key-id": made["AccessKeyId"], "secret-access-key": made["SecretAccessKey"]}
    store = open_store(moto.url("shared"), keys, retry=FAST)  # type: ignore[attr-defined]
    assert store.get("0000/k") == b"x"
    for call in (
        lambda: store.put("0000/k", b"y"),
        lambda: list(store.list("0000/")),
        lambda: store.delete(["0000/k"]),
    ):
        with pytest.raises(AccessDenied, match="PutObject and DeleteObject"):
            call()


@pytest.mark.parametrize("status", [200, 301, 403])
def test_the_region_of_a_bucket_is_asked_for_once(line: Wire, status: int) -> None:
    line.script = [Reply(status, {"x-amz-bucket-region": "eu-west-1"})]
    line.default = ranged(b"d", 0, 4)
    settings = S3Settings("bkt", "db", provider_for(""), endpoint=line.endpoint, region=None, path_style=True)
    store = S3Store(settings)
    assert store.get("0000/k", 0, 1) == b"d"
    store.get("0000/k", 0, 1)
    assert "/eu-west-1/s3/aws4_request" in line.last().headers["authorization"]
    assert [seen.method for seen in line.seen] == ["HEAD", "GET", "GET"]


def test_amazon_gets_a_checksum_with_each_put(line: Wire) -> None:
    settings = S3Settings(
        "bkt", "db", provider_for(""), endpoint=line.endpoint, region="eu-west-1", path_style=True
    )
    S3Store(settings).put("0000/k", b"data")
    digest = base64.b64decode(line.last().headers["x-amz-checksum-crc32"])
    assert int.from_bytes(digest) == zlib.crc32(b"data")


PART_TAG = "0" * 31 + "1"
WHOLE_TAG = hashlib.md5(bytes.fromhex(PART_TAG) * 2).hexdigest() + "-2"


@pytest.mark.parametrize(
    ("second", "if_absent"), [(error(404, "NoSuchUpload"), False), (error(412, "PreconditionFailed"), True)]
)
def test_an_upload_completed_by_a_try_whose_answer_was_lost(line: Wire, second: Reply, if_absent: bool) -> None:
    xml = {"Content-Type": "application/xml"}
    begun = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    data = b"x" * (6 << 20)

    def script(length: int, tag: str, *, lost: bool = True) -> list[Reply]:
        parts = [Reply(200, {"ETag": f'"{PART_TAG}"'})] * 2
        answers = [Reply(404)] if if_absent else []
        answers += [error(500, "InternalError"), second] if lost else [second]
        there = Reply(200, {"ETag": f'"{tag}"'}, b"x" * length)
        return [Reply(200, xml, begun), *parts, *answers, there]

    line.script = script(len(data), WHOLE_TAG)
    assert opened(line).put("0000/k", iter([data]), if_absent=if_absent).etag == f'"{WHOLE_TAG}"'
    refused = {
        "another size": script(5, WHOLE_TAG),
        "other bytes": script(len(data), "f" * 32 + "-2"),
        "nothing was lost": script(len(data), WHOLE_TAG, lost=False),
    }
    for why, answers in refused.items():
        line.script = answers
        with pytest.raises(AlreadyExists if if_absent else StoreError) as caught:
            opened(line).put("0000/k", iter([data]), if_absent=if_absent)
        assert if_absent or "NoSuchUpload" in str(caught.value), why


def test_reads_and_small_writes_load_no_sdk(line: Wire) -> None:
    """Its models take a third of a second and thirty megabytes of each process."""
    program = f"""
import sys
from vfsstream.stores import open_store
store = open_store("s3://bkt/db?endpoint={line.endpoint}")
store.put("0000/k", b"data")
store.get("0000/k", 0, 1)
list(store.stream("0000/k"))
list(store.list("0000/"))
store.delete(["0000/k"])
print([name for name in ("boto3", "botocore", "s3transfer") if name in sys.modules])
"""
    listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    line.script = [
        Reply(200, {"ETag": '"e"'}),
        ranged(b"d", 0, 4),
        ranged(b"data", 0, 4),
        Reply(200, {}, listing),
        Reply(204),
    ]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
