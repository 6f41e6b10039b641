"""URL, keys and environment to the settings of an S3 replica: one truth table."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from vfsstream.errors import UrlError
from vfsstream.stores.s3_providers import provider_for
from vfsstream.stores.s3_settings import S3Settings, resolve
from vfsstream.stores.url import parse_url, url_from_options


def settle(url: str = "s3://b/p", keys: Mapping[str, str] | None = None, **environment: str) -> S3Settings:
    parsed = parse_url(url) if url else url_from_options({"type": "s3"})
    return resolve(parsed, keys or {}, environment)


@pytest.mark.parametrize(
    ("url", "bucket", "path", "endpoint", "region", "path_style"),
    [
        ("s3://b", "b", ".", None, None, None),
        ("s3://b/", "b", "", None, None, None),
        ("s3://b/x/y", "b", "x/y", None, None, None),
        ("s3://b.s3.amazonaws.com/x", "b", "x", None, None, None),
        ("s3://b.c.s3.eu-west-1.amazonaws.com/x", "b.c", "x", None, "eu-west-1", None),
        ("s3://b.ams3.digitaloceanspaces.com/x", "b", "x", "https://ams3.digitaloceanspaces.com", "ams3", False),
        (
            "s3://b.s3.us-west-002.backblazeb2.com/x",
            "b",
            "x",
            "https://s3.us-west-002.backblazeb2.com",
            "us-west-002",
            True,
        ),
        ("s3://b.s3.filebase.com/x", "b", "x", "https://s3.filebase.com", "us-east-1", True),
        ("s3://b.s3.fr-par.scw.cloud/x", "b", "x", "https://s3.fr-par.scw.cloud", "fr-par", False),
        ("s3://b.localhost:9000/x", "b", "x", "http://localhost:9000", "us-east-1", True),
        ("s3://b.minio.lan:9000/x", "b", "x", "http://minio.lan:9000", "us-east-1", True),
        (
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/n/x",
            "arn:aws:s3:eu-west-1:1:accesspoint/n",
            "x",
            None,
            "eu-west-1",
            None,
        ),
    ],
)
def test_host_forms(
    url: str, bucket: str, path: str, endpoint: str | None, region: str | None, path_style: bool | None
) -> None:
    got = settle(url)
    assert (got.bucket, got.path, got.endpoint, got.region, got.path_style) == (
        bucket,
        path,
        endpoint,
        region,
        path_style,
    )


@pytest.mark.parametrize(
    ("said", "endpoint"),
    [
        ("localhost:9000", "http://localhost:9000"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("10.1.2.3", "http://10.1.2.3"),
        ("192.168.1.1:80", "http://192.168.1.1:80"),
        ("172.16.0.1", "http://172.16.0.1"),
        ("172.32.0.1", "https://172.32.0.1"),
        ("nas.local:9000", "http://nas.local:9000"),
        ("s3.example.com", "https://s3.example.com"),
        ("http://s3.example.com", "http://s3.example.com"),
        ("https://x.supabase.co/storage/v1/s3", "https://x.supabase.co/storage/v1/s3"),
    ],
)
def test_endpoints(said: str, endpoint: str) -> None:
    assert settle(f"s3://b/p?endpoint={said}").endpoint == endpoint
    assert settle(LITESTREAM_S3_ENDPOINT=said).endpoint == endpoint
    assert settle(f"s3://b/p?endpoint={said}").region == "us-east-1"
    assert settle(f"s3://b/p?endpoint={said}").path_style is True
    assert settle(f"s3://b/p?endpoint={said}&forcePathStyle=false").path_style is False


def test_an_endpoint_key_without_scheme_is_https_even_for_localhost() -> None:
    assert settle(keys={"endpoint": "localhost:9000"}).endpoint == "https://localhost:9000"


def test_a_configuration_key_beats_the_url_and_the_url_the_environment() -> None:
    url = "s3://b/p?endpoint=http://u&region=ru&storageClass=U&partSize=6000000&concurrency=3"
    keys = {"endpoint": "http://k", "region": "rk", "storage-class": "K", "part-size": "7MB", "concurrency": "4"}
    got = settle(url, keys, LITESTREAM_S3_ENDPOINT="http://e")
    assert (got.endpoint, got.region, got.storage_class, got.part_size, got.concurrency) == (
        "http://k",
        "rk",
        "K",
        7_000_000,
        4,
    )
    got = settle(url, {}, LITESTREAM_S3_ENDPOINT="http://e")
    assert (got.endpoint, got.region, got.storage_class, got.part_size, got.concurrency) == (
        "http://u",
        "ru",
        "U",
        6_000_000,
        3,
    )


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("", "sign_payload", True),
        ("signPayload=false", "sign_payload", False),
        ("sign-payload=0", "sign_payload", False),
        ("signPayload=maybe", "sign_payload", False),
        ("signPayload=YES", "sign_payload", True),
        ("requireContentMD5=false", "content_md5", False),
        ("require-content-md5=f", "content_md5", False),
        ("skipVerify=true", "verify", False),
        ("skip-verify=1", "verify", False),
        ("skipVerify=nonsense", "verify", True),
        ("part-size=6000000", "part_size", 6_000_000),
        ("storage-class=STANDARD_IA", "storage_class", "STANDARD_IA"),
        ("sseKmsKeyId=k", "sse_kms_key_id", "k"),
        ("sse-kms-key-id=k", "sse_kms_key_id", "k"),
        ("endpoint=http://fly.storage.tigris.dev", "content_md5", False),
        ("endpoint=http://fly.storage.tigris.dev&requireContentMD5=true", "content_md5", True),
        ("endpoint=https://acc.r2.cloudflarestorage.com", "concurrency", 2),
        ("endpoint=https://acc.r2.cloudflarestorage.com&concurrency=9", "concurrency", 9),
    ],
)
def test_parameters(query: str, name: str, value: object) -> None:
    assert getattr(settle(f"s3://b/p?{query}"), name) == value


@pytest.mark.parametrize(
    ("host", "name", "path_style"),
    [
        ("", "Amazon S3", False),
        ("s3.eu-west-1.amazonaws.com", "Amazon S3", False),
        ("fly.storage.tigris.dev", "Tigris", False),
        ("t3.storage.dev", "Tigris", False),
        ("x.r2.cloudflarestorage.com", "Cloudflare R2", False),
        ("s3.us-west-002.backblazeb2.com", "Backblaze B2", True),
        ("s3.filebase.com", "Filebase", True),
        ("p.supabase.co", "Supabase", True),
        ("storage.googleapis.com", "Google Cloud Storage (XML)", False),
        ("ams3.digitaloceanspaces.com", "DigitalOcean Spaces", False),
        ("s3.fr-par.scw.cloud", "Scaleway", False),
        ("fsn1.your-objectstorage.com", "Hetzner", False),
        ("s3.wasabisys.com", "Wasabi", False),
        ("minio.example.com:9000", "MinIO or similar", True),
        ("s3.example.com", "S3-compatible", False),
    ],
)
def test_providers(host: str, name: str, path_style: bool) -> None:
    assert (provider_for(host).name, provider_for(host).path_style) == (name, path_style)


def test_credentials() -> None:
    keys = {"access-key-id": "A", "secret-access-key": "S"}
    assert (settle(keys=keys).access_key, settle(keys=keys).secret_key) == ("A", "S")
    ours = {"LITESTREAM_ACCESS_KEY_ID": "L", "LITESTREAM_SECRET_ACCESS_KEY": "M"}
    assert settle(**ours).access_key == "L"
    assert settle(**ours, AWS_ACCESS_KEY_ID="X").access_key is None, "the usual chain is asked"
    with pytest.raises(UrlError, match="access-key-id without secret-access-key"):
        settle(keys={"access-key-id": "A"})
    assert "SSSS" not in repr(settle(keys={"access-key-id": "A", "secret-access-key": "SSSS"}))


def test_encryption_is_honoured_or_refused(tmp_path: Path) -> None:
    key = base64.b64encode(b"k" * 32).decode()
    assert settle(keys={"sse-customer-key": key}).sse_customer_key == b"k" * 32
    file = tmp_path / "key"
    file.write_text(key + "\n")
    assert settle(keys={"sse-customer-key-path": str(file), "sse-customer-key": "x"}).sse_customer_key == b"k" * 32
    assert settle("s3://b?endpoint=http://127.0.0.1:1", {"sse-customer-key": key}).sse_customer_key
    for keys, url, said in (
        ({"sse-customer-key": "!"}, "s3://b", "not base64"),
        ({"sse-customer-key": "AAAA"}, "s3://b", "3 bytes"),
        ({"sse-customer-key": key, "sse-kms-key-id": "k"}, "s3://b", "both"),
        ({"sse-customer-key": key, "sse-customer-algorithm": "DES"}, "s3://b", "DES"),
        ({"sse-customer-algorithm": "AES256"}, "s3://b", "without a key"),
        ({"sse-customer-key": key}, "s3://b?endpoint=http://s3.example.com", "in the clear"),
        ({"sse-customer-key-path": str(tmp_path / "none")}, "s3://b", "none"),
    ):
        with pytest.raises(UrlError, match=said):
            settle(url, keys)


@pytest.mark.parametrize(
    ("url", "keys", "said"),
    [
        ("s3:///p", {}, "no bucket"),
        ("", {}, "no bucket"),
        ("s3://localhost:9000/p", {}, "endpoint=http://localhost:9000"),
        ("s3://b/p?partSize=1000", {}, "part-size"),
        ("s3://b/p?partSize=many", {}, "partSize"),
        ("s3://b/p?concurrency=0", {}, "concurrency"),
        ("s3://b/p?endpoint=ftp://x", {}, "ftp://x"),
        ("s3://b/p", {"sign-payload": "maybe"}, "sign-payload"),
        ("s3://b/p", {"part-size": "5e6"}, "part-size"),
    ],
)
def test_impossible_values_are_named(url: str, keys: Mapping[str, str], said: str) -> None:
    with pytest.raises(UrlError) as caught:
        settle(url, keys)
    assert said in str(caught.value)
    assert caught.value.hint


def test_paths_of_the_configuration_are_not_cleaned() -> None:
    assert resolve(url_from_options({"type": "s3"}), {"bucket": "b", "path": "/foo/"}, {}).path == "/foo/"
    assert resolve(url_from_options({"type": "s3"}), {"bucket": "b", "path": "a//b"}, {}).path == "a//b"
