"""Our signatures, places and credentials are the SDK's."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsstream.stores.http import Answer
from vfsstream.stores.s3_place import plain_keys, plain_place
from vfsstream.stores.s3_sdk import chain_keys, make_sdk, sdk_place
from vfsstream.stores.s3_settings import S3Settings, resolve
from vfsstream.stores.s3_sign import Keys, sign
from vfsstream.stores.url import parse_url

pytest.importorskip("botocore")


def _nothing_sent(method: str, url: str, headers: object, body: object) -> Answer:
    raise AssertionError(f"{method} {url} was sent")


NOW = 1_790_000_000.5


def sdk_signed(
    method: str, url: str, headers: dict[str, str], payload: str, keys: Keys, region: str
) -> dict[str, str]:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method=method, url=url, headers=dict(headers))
    auth = S3SigV4Auth(Credentials(*keys), "s3", region)
    auth.payload = lambda _: payload
    with patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(NOW, UTC)):
        auth.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


HOSTS = [
    "http://127.0.0.1:9000",
    "https://b.s3.eu-west-1.amazonaws.com",
    "https://x.test:443",
    "http://[::1]:80",
    "http://h:443",
]
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@settings(deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    host=st.sampled_from(HOSTS),
    key=texts,
    query=st.lists(st.tuples(st.sampled_from(["prefix", "start-after", "list-type", "p-q"]), texts), max_size=4),
    headers=st.dictionaries(st.sampled_from(["Range", "x-amz-meta-a", "Content-Type", "If-None-Match"]), values),
    token=st.none() | values.filter(lambda text: text == text.strip() != ""),
)
def test_signature_is_the_one_of_the_sdk(
    method: str, host: str, key: str, query: list[tuple[str, str]], headers: dict[str, str], token: str | None
) -> None:
    url = f"{host}/{quote(key, safe='/~')}"
    if query:
        url += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
    keys = Keys("AK", "secret/+", token)
    ours = sign(method, url, headers, "UNSIGNED-PAYLOAD", keys, "eu-west-1", NOW)
    assert {name.lower(): value for name, value in ours.items()} == sdk_signed(
        method, url, headers, "UNSIGNED-PAYLOAD", keys, "eu-west-1"
    )


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No configuration of AWS but what the test sets."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "LITESTREAM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("s3://bucket/a?endpoint=http://127.0.0.1:9000", None),
        ("s3://bucket/a?endpoint=http://127.0.0.1:9000&forcePathStyle=false", None),
        ("s3://my.bucket/a?endpoint=http://127.0.0.1:9000", None),
        ("s3://My_Bucket/a?endpoint=http://127.0.0.1:9000", None),
        ("s3://bucket/a?endpoint=http://[::1]:9000", None),
        ("s3://bucket/a?endpoint=https://storage.example/some/path", None),
        ("s3://bucket/a?endpoint=https://storage.example/some/path/&forcePathStyle=false", None),
        ("s3://bucket/a?endpoint=https://storage.example&forcePathStyle=false", None),
        ("s3://my.bucket/a?endpoint=https://storage.example&forcePathStyle=false", None),
        ("s3://bucket/a?endpoint=https://storage.example&region=auto", None),
        ("s3://bucket/a?endpoint=https://storage.example&region=aws-global", None),
        ("s3://bucket/a?endpoint=https://0123.r2.cloudflarestorage.com", None),
        ("s3://bucket/a?endpoint=https://s3.eu-central-1.amazonaws.com", None),
        ("s3://bucket.ams3.digitaloceanspaces.com/a", None),
        ("s3://bucket.s3.fr-par.scw.cloud/a", None),
        ("s3://bucket.s3.us-west-004.backblazeb2.com/a", None),
        ("s3://bucket.s3.eu-central-1.amazonaws.com/a", None),
        ("s3://bucket/a", "us-east-1"),
        ("s3://bucket/a", "eu-central-1"),
        ("s3://bucket/a", "ap-southeast-2"),
        ("s3://bucket/a", "ca-west-1"),
        ("s3://bucket/a", "mx-central-1"),
        ("s3://bucket/a", "us-gov-west-1"),
        ("s3://bucket/a", "cn-north-1"),
        ("s3://my.bucket/a", "eu-west-1"),
        ("s3://bucket/a?region=eu-west-2&forcePathStyle=true", None),
        ("s3://bucket--use1-az4--x-s3/a?region=us-east-1", None),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a", None),
    ],
)
def test_place_is_the_one_of_the_sdk(url: str, region: str | None, bare: pytest.MonkeyPatch) -> None:
    decided = resolve(parse_url(url), {"access-key-id": "a", "secret-access-key": "b"}, {})
    region = decided.region or region or "us-east-1"
    plain = plain_place(decided, {}, region)
    if plain is not None:
        assert plain == sdk_place(decided, make_sdk(decided, region, _nothing_sent))


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a?endpoint=http://127.0.0.1:9000", "s3://bucket.ams3.digitaloceanspaces.com/a", "s3://bucket/a"],
)
def test_the_common_places_need_no_sdk(url: str, bare: pytest.MonkeyPatch) -> None:
    decided = resolve(parse_url(url), {}, {})
    assert plain_place(decided, {}, decided.region) is not None


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_USE_FIPS_ENDPOINT", "AWS_PROFILE", "AWS_CONFIG_FILE"]
)
def test_what_the_environment_says_of_amazons_hosts_is_left_to_the_sdk(
    name: str, bare: pytest.MonkeyPatch
) -> None:
    assert (
        plain_place(
            S3Settings("bucket", "a", resolve(parse_url("s3://bucket/a"), {}, {}).provider),
            {name: "x"},
            "us-east-1",
        )
        is None
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
        {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_SESSION_TOKEN": "c",
            "AWS_SECURITY_TOKEN": "d",
        },
    ],
)
def test_keys_of_the_environment_are_those_of_the_sdk(
    environment: dict[str, str], bare: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    decided = resolve(parse_url("s3://bucket/a"), {}, {})
    assert plain_keys(decided, environment) == chain_keys(decided)()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AWS_ACCESS_KEY_ID": "a"},
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_PROFILE": "other"},
        {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z",
        },
    ],
)
def test_other_keys_are_left_to_the_sdk(environment: dict[str, str]) -> None:
    assert plain_keys(resolve(parse_url("s3://bucket/a"), {}, {}), environment) is None


def test_a_profile_of_the_shared_file(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = a\naws_secret_access_key = b\naws_session_token = c\n"
    )
    bare.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    bare.setenv("AWS_PROFILE", "other")
    assert chain_keys(resolve(parse_url("s3://bucket/a"), {}, {}))() == Keys("a", "b", "c")
