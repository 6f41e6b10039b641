"""What is special about each provider of S3 storage, as data.

A provider is told by the host of the endpoint; a bucket written into the host of a URL (``s3://B.host/``) by the
table of host forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["AMAZON", "HOST_FORMS", "PROVIDERS", "HostForm", "Provider", "provider_for"]


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider's peculiarities.

    Attributes:
        name: as its users call it.
        hosts: pattern that the endpoint's host (and port) must match as a whole, in lower case.
        path_style: the bucket stands in the path whatever the URL says, unless a configuration key says otherwise.
        content_md5: batch deletions carry a Content-MD5 unless told otherwise.
        concurrency: parts of one upload sent at once; ``None`` for the usual number.
        headers: sent with every request.
        equal_parts: all parts of an upload but the last must have one size.
        checksum: uploads carry a CRC-32, which a bucket with object lock insists on.
        put_if_absent: a conditional put is atomic there; ``None`` when that is not known, which counts as
            yes: ``vfsstream check`` tells.
        batch_delete: many objects may be deleted by one request.
    """

    name: str
    hosts: str
    path_style: bool = False
    content_md5: bool = True
    concurrency: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    equal_parts: bool = False
    checksum: bool = False
    put_if_absent: bool | None = None
    batch_delete: bool = True


AMAZON = Provider("Amazon S3", r"(.+\.)?amazonaws\.com(\.cn)?(:\d+)?", checksum=True, put_if_absent=True)

PROVIDERS: tuple[Provider, ...] = (
    AMAZON,
    Provider(
        "Tigris",
        r"fly\.storage\.tigris\.dev|t3\.storage\.dev",
        content_md5=False,
        headers=(("X-Tigris-Consistent", "true"),),
        put_if_absent=True,
    ),
    Provider(
        "Cloudflare R2",
        r".+\.r2\.cloudflarestorage\.com",
        concurrency=2,
        equal_parts=True,
        put_if_absent=True,
    ),
    Provider("Backblaze B2", r"(.+\.)?backblazeb2\.com(:\d+)?", path_style=True, put_if_absent=False),
    Provider("Filebase", r"s3\.filebase\.com(:\d+)?", path_style=True, put_if_absent=False),
    Provider("Supabase", r".+\.supabase\.co(:\d+)?", path_style=True),
    Provider("Google Cloud Storage (XML)", r".+\.googleapis\.com", batch_delete=False, put_if_absent=False),
    Provider("DigitalOcean Spaces", r".+\.digitaloceanspaces\.com(:\d+)?"),
    Provider("Scaleway", r".+\.scw\.cloud(:\d+)?"),
    Provider("Hetzner", r".+\.your-objectstorage\.com(:\d+)?"),
    Provider("Wasabi", r"(.+\.)?wasabisys\.com"),
    Provider("Linode", r".+\.linodeobjects\.com"),
    Provider("OVH", r"s3\..+\.cloud\.ovh\.(net|us)|s3\..+\.io\.cloud\.ovh\.net"),
    Provider("Exoscale", r"sos-.+\.exo\.io"),
    Provider("Vultr", r".+\.vultrobjects\.com"),
    Provider("IDrive e2", r".+\.idrivee2(-\d+)?\.com"),
    # A host with a port is somebody's own server: MinIO and its like, Ceph, Garage, SeaweedFS.
    Provider("MinIO or similar", r".+:\d+", path_style=True, put_if_absent=True),
)
"""In the order they are tried."""

OTHER = Provider("S3-compatible", r".*", put_if_absent=True)


def provider_for(endpoint_host: str) -> Provider:
    """The provider behind an endpoint; an empty host is Amazon's own.

    Args:
        endpoint_host: host with its port if any, without user information.
    """
    if not endpoint_host:
        return AMAZON
    host = endpoint_host.lower()
    return next((p for p in PROVIDERS if re.fullmatch(p.hosts, host)), OTHER)


@dataclass(frozen=True, slots=True)
class HostForm:
    """A bucket written into the host of a URL.

    Attributes:
        pattern: of the whole host; group ``bucket``, and ``region`` where there is one.
        endpoint: made of the groups, or ``None`` for Amazon's own.
        path_style: the bucket then stands in the path.
        region: when the host names none.
    """

    pattern: str
    endpoint: Callable[[re.Match[str]], str] | None
    path_style: bool | None = None
    region: str | None = None


HOST_FORMS: tuple[HostForm, ...] = (
    HostForm(r"(?P<bucket>.+)\.s3\.(?P<region>[^.]+)\.amazonaws\.com", None),
    HostForm(r"(?P<bucket>.+)\.s3\.amazonaws\.com", None),
    HostForm(
        r"(?P<bucket>.+)\.(?P<region>[^.]+)\.digitaloceanspaces\.com",
        lambda m: f"https://{m['region']}.digitaloceanspaces.com",
    ),
    HostForm(
        r"(?P<bucket>.+)\.s3\.(?P<region>[^.]+)\.backblazeb2\.com",
        lambda m: f"https://s3.{m['region']}.backblazeb2.com",
        path_style=True,
    ),
    HostForm(r"(?P<bucket>.+)\.s3\.filebase\.com", lambda _: "https://s3.filebase.com", region="us-east-1"),
    HostForm(
        r"(?P<bucket>.+)\.s3\.(?P<region>[^.]+)\.scw\.cloud", lambda m: f"https://s3.{m['region']}.scw.cloud"
    ),
    HostForm(
        r"(?P<bucket>[^.:]+)\.(?P<rest>[^/]+:\d+)",
        lambda m: f"http://{m['rest']}",
        path_style=True,
        region="us-east-1",
    ),
)
