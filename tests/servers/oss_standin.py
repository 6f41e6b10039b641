"""A stand-in for Alibaba Cloud OSS, since nothing installable speaks it: ``oss_standin.py PORT FOLDER``.

It checks V1 and V4 signatures by the published rules, without the vendor's code, so a client that signs wrongly fails.
Objects lie in a folder and survive ``kill -9``. Requests run in parallel; no lock is held while a body goes out.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import json
import os
import re
import sys
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from fastcrc import crc64

FULL = ("AKIDFULLACCESS", "secret/of+the=full-key")
READER = ("AKIDREADONLY", "secret-of-the-reader")
TEMPORARY = ("STS.AKIDTEMPORARY", "secret-of-the-moment")
TOKEN, EXPIRED = "token-in-force", "token-of-yesterday"
SECRETS = dict((FULL, READER, TEMPORARY))

_SIGNED_QUERY_V1 = {
    "acl",
    "uploads",
    "location",
    "delete",
    "append",
    "tagging",
    "objectMeta",
    "uploadId",
    "partNumber",
} | {
    *("security-token", "position", "symlink", "restore", "versioning", "versions", "versionId", "stat"),
    *("bucketInfo", "continuation-token", "sequential"),
}
_MIN_PART = 100 * 1024


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


class Disk:
    """Buckets and objects in a folder: a body and a description each, renamed into place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.uploads: dict[str, tuple[dict[str, str], dict[int, bytes]]] = {}
        self.index: dict[str, dict[str, dict[str, object]]] = {}
        for bucket in folder.iterdir():
            self.index[bucket.name] = {}
            for path in bucket.glob("*.json"):
                about = json.loads(path.read_text())
                self.index[bucket.name][about["key"]] = about

    def bucket(self, name: str) -> dict[str, dict[str, object]]:
        """The descriptions of a bucket's objects by key."""
        if name not in self.index:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
        return self.index[name]

    def create(self, name: str) -> None:
        """Make a bucket; an existing one is fine."""
        (self.folder / name).mkdir(exist_ok=True)
        self.index.setdefault(name, {})

    def place(self, bucket: str, key: str) -> Path:
        """Where a body lies."""
        return self.folder / bucket / hashlib.sha256(key.encode()).hexdigest()

    def store(self, bucket: str, key: str, data: bytes, meta: dict[str, str], etag: str) -> dict[str, object]:
        """Keep an object."""
        body = self.place(bucket, key).with_suffix(f".{uuid.uuid4().hex}")
        body.write_bytes(data)
        about: dict[str, object] = {
            "key": key,
            "size": len(data),
            "meta": meta,
            "time": time.time(),
            "etag": etag,
            "crc": str(crc64.xz(data)),
            "body": body.name,
        }
        draft = body.with_suffix(".draft")
        draft.write_text(json.dumps(about))
        draft.replace(self.place(bucket, key).with_suffix(".json"))
        self.index[bucket][key] = about
        return about

    def read(self, bucket: str, about: dict[str, object]) -> bytes:
        """An object's bytes."""
        return (self.folder / bucket / str(about["body"])).read_bytes()

    def remove(self, bucket: str, key: str) -> None:
        """Forget an object; a missing one is fine."""
        if self.index[bucket].pop(key, None) is not None:
            self.place(bucket, key).with_suffix(".json").unlink()


class Handler(BaseHTTPRequestHandler):
    """One connection. Path style: ``/BUCKET/KEY``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    disk: Disk

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def handle_one(self) -> None:
        """Read, check, act, answer."""
        raw, _, asked = self.path.partition("?")
        self.query = dict(parse_qsl(asked, keep_blank_values=True))
        self.bucket, _, self.key = unquote(raw).lstrip("/").partition("/")
        self.lower = {name.lower(): value.strip() for name, value in self.headers.items()}
        body = self.read_body()
        try:
            self.check_signature()
            self.check_digest(body)
            status, data, headers = self.act(body)
        except Refusal as refusal:
            status, data, headers = self.refused(refusal)
        self.send_response(status)
        fields = {"x-oss-request-id": uuid.uuid4().hex[:24].upper(), "Content-Length": str(len(data)), **headers}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def read_body(self) -> bytes:
        """The request's body, chunked or not."""
        if self.lower.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.lower.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def refused(self, refusal: Refusal) -> tuple[int, bytes, dict[str, str]]:
        """An error answer; without a body its words go into a header."""
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{refusal.code}</Code>'
            f"<Message>{escape(refusal.message)}</Message><RequestId>0</RequestId><HostId>stand-in</HostId>"
            "<EC>0000-00000000</EC></Error>"
        ).encode()
        if self.command == "HEAD":
            return refusal.status, b"", {"x-oss-err": base64.b64encode(text).decode()}
        return refusal.status, text, {"Content-Type": "application/xml"}

    # Signatures

    def check_signature(self) -> None:
        """Refuse whoever cannot sign."""
        given = self.lower.get("authorization", "")
        if given.startswith("OSS4-HMAC-SHA256 "):
            key, right = self.signature_v4(given.partition(" ")[2])
        elif given.startswith("OSS "):
            key, right = self.signature_v1(given[4:])
        else:
            raise Refusal(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
        if not right:
            raise Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if key == TEMPORARY[0]:
            token = self.lower.get("x-oss-security-token")
            if token == EXPIRED:
                raise Refusal(403, "SecurityTokenExpired", "The security token you provided has expired.")
            if token != TOKEN:
                raise Refusal(403, "InvalidSecurityToken", "The security token you provided is invalid.")
        if key == READER[0] and self.command not in ("GET", "HEAD"):
            raise Refusal(403, "AccessDenied", "You have no right to access this object because of bucket acl.")

    def secret(self, key: str) -> str:
        """The secret of an access key."""
        if key not in SECRETS:
            raise Refusal(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist.")
        return SECRETS[key]

    def signature_v4(self, given: str) -> tuple[str, bool]:
        """Access key, and whether the signature is right."""
        fields = dict(part.strip().split("=", 1) for part in given.split(","))
        key, *scope = fields["Credential"].split("/")
        stamp = self.lower.get("x-oss-date", "")
        if not stamp.startswith(scope[0]) or scope[2:] != ["oss", "aliyun_v4_request"]:
            return key, False
        additional = [name for name in fields.get("AdditionalHeaders", "").split(";") if name]
        covered = sorted(
            name
            for name in self.lower
            if name.startswith("x-oss-") or name in ("content-type", "content-md5") or name in additional
        )
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in self.query.items())
        request = "\n".join(
            [
                self.command,
                quote(f"/{self.bucket}/{self.key}" if self.bucket else "/", safe="/-_.~"),
                "&".join(f"{k}={v}" if v else k for k, v in pairs),
                "".join(f"{name}:{self.lower[name]}\n" for name in covered),
                ";".join(sorted(additional)),
                self.lower.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
            ]
        )
        secret = f"aliyun_v4{self.secret(key)}".encode()
        for part in scope:
            secret = hmac.digest(secret, part.encode(), "sha256")
        text = "\n".join(
            ["OSS4-HMAC-SHA256", stamp, "/".join(scope), hashlib.sha256(request.encode()).hexdigest()]
        )
        return key, hmac.compare_digest(hmac.new(secret, text.encode(), "sha256").hexdigest(), fields["Signature"])

    def signature_v1(self, given: str) -> tuple[str, bool]:
        """Access key, and whether the signature is right."""
        key, _, signature = given.partition(":")
        own = "".join(f"{name}:{self.lower[name]}\n" for name in sorted(self.lower) if name.startswith("x-oss-"))
        parts = [f"{k}={v}" if v else k for k, v in sorted(self.query.items()) if k in _SIGNED_QUERY_V1]
        resource = f"/{self.bucket}/{self.key}" if self.bucket else "/"
        text = "\n".join(
            [
                self.command,
                self.lower.get("content-md5", ""),
                self.lower.get("content-type", ""),
                self.lower.get("x-oss-date") or self.lower.get("date", ""),
                own + resource + ("?" + "&".join(parts) if parts else ""),
            ]
        )
        right = base64.b64encode(hmac.digest(self.secret(key).encode(), text.encode(), "sha1")).decode()
        return key, hmac.compare_digest(right, signature)

    def check_digest(self, body: bytes) -> None:
        """Content-MD5, where it is sent."""
        stated = self.lower.get("content-md5")
        if stated and stated != base64.b64encode(hashlib.md5(body).digest()).decode():
            raise Refusal(400, "InvalidDigest")

    # What is asked for

    def act(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Do it."""
        if not self.key:
            return self.act_on_bucket(body)
        if self.key[0] in "/\\":
            raise Refusal(400, "InvalidObjectName", "The specified object is not valid.")
        if self.command in ("GET", "HEAD"):
            return self.get()
        with self.disk.lock:
            self.disk.bucket(self.bucket)
            if self.command == "PUT":
                return self.put(body)
            if self.command == "POST":
                return self.multipart(body)
            if "uploadId" in self.query:
                self.disk.uploads.pop(self.query["uploadId"], None)
            else:
                self.disk.remove(self.bucket, self.key)
            return 204, b"", {}

    def act_on_bucket(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Make it, list it, delete objects from it."""
        with self.disk.lock:
            if self.command == "PUT":
                self.disk.create(self.bucket)
                return 200, b"", {}
            objects = self.disk.bucket(self.bucket)
            if self.command == "POST" and "delete" in self.query:
                return self.delete_many(body)
            if self.command == "GET":
                return self.list(objects)
        raise Refusal(400, "InvalidArgument")

    def meta(self) -> dict[str, str]:
        """What is kept of the request's headers."""
        return {k: v for k, v in self.lower.items() if k.startswith("x-oss-meta-") or k == "content-type"}

    def guard(self) -> None:
        """``x-oss-forbid-overwrite`` is the only conditional put there is."""
        forbidden = self.lower.get("x-oss-forbid-overwrite", "").lower() == "true"
        if forbidden and self.key in self.disk.bucket(self.bucket):
            raise Refusal(
                409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten."
            )

    def put(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """An object or a part."""
        etag = hashlib.md5(body).hexdigest().upper()
        answer = {"ETag": f'"{etag}"', "x-oss-hash-crc64ecma": str(crc64.xz(body))}
        upload = self.query.get("uploadId")
        if upload is not None:
            if upload not in self.disk.uploads:
                raise Refusal(404, "NoSuchUpload")
            self.disk.uploads[upload][1][int(self.query["partNumber"])] = body
            return 200, b"", answer
        self.guard()
        self.disk.store(self.bucket, self.key, body, self.meta(), etag)
        return 200, b"", answer

    def multipart(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Begin or complete an upload in parts."""
        name = quote(self.key, safe="") if self.query.get("encoding-type") == "url" else escape(self.key)
        if "uploads" in self.query:
            self.guard()
            upload = uuid.uuid4().hex.upper()
            self.disk.uploads[upload] = (self.meta(), {})
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{self.bucket}</Bucket><Key>{name}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        upload = self.query.get("uploadId", "")
        if upload not in self.disk.uploads:
            raise Refusal(404, "NoSuchUpload")
        self.guard()
        meta, parts = self.disk.uploads[upload]
        data = b"".join(self.listed_parts(body, parts))
        etag = f"{hashlib.md5(data).hexdigest().upper()}-{len(parts)}"
        about = self.disk.store(self.bucket, self.key, data, meta, etag)
        del self.disk.uploads[upload]
        headers = {"ETag": f'"{etag}"', "x-oss-hash-crc64ecma": str(about["crc"])}
        return _xml(
            f"<CompleteMultipartUploadResult><Bucket>{self.bucket}</Bucket><Key>{name}</Key>"
            f"<ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>",
            headers,
        )

    def listed_parts(self, body: bytes, parts: dict[int, bytes]) -> list[bytes]:
        """The parts that the request lists, as the service checks them."""
        listed = []
        for item in ET.fromstring(body).iter("Part"):
            data = parts.get(int(item.findtext("PartNumber") or 0))
            etag = (item.findtext("ETag") or "").strip('"')
            if data is None or hashlib.md5(data).hexdigest().upper() != etag.upper():
                raise Refusal(400, "InvalidPart")
            listed.append(data)
        if any(len(data) < _MIN_PART for data in listed[:-1]):
            raise Refusal(400, "EntityTooSmall")
        return listed

    def get(self) -> tuple[int, bytes, dict[str, str]]:
        """An object or a range of it, or what HEAD tells."""
        with self.disk.lock:
            about = self.disk.bucket(self.bucket).get(self.key)
        if about is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        data = self.disk.read(self.bucket, about)
        headers = {
            "ETag": f'"{about["etag"]}"',
            "x-oss-hash-crc64ecma": str(about["crc"]),
            "Last-Modified": email.utils.formatdate(float(str(about["time"])), usegmt=True),
            "Accept-Ranges": "bytes",
            "x-oss-object-type": "Normal",
            "x-oss-storage-class": "Standard",
            "Content-Length": str(len(data)),
            **about["meta"],  # type: ignore[dict-item]
        }
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.lower.get("range", ""))
        return self.ranged(data, headers, asked) if asked else (200, data, headers)

    def ranged(
        self, data: bytes, headers: dict[str, str], asked: re.Match[str]
    ) -> tuple[int, bytes, dict[str, str]]:
        """Without ``x-oss-range-behavior: standard`` a range that does not fit is answered with everything."""
        size, standard = len(data), self.lower.get("x-oss-range-behavior") == "standard"
        first, last = asked[1], asked[2]
        low, high = (max(size - int(last), 0), size - 1) if not first else (int(first), int(last or size - 1))
        if low >= size or low > high:
            if standard:
                raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied")
            return 200, data, headers
        if high >= size and not standard:
            return 200, data, headers
        part = data[low : min(high, size - 1) + 1]
        span = f"bytes {low}-{low + len(part) - 1}/{size}"
        return 206, part, {**headers, "Content-Length": str(len(part)), "Content-Range": span}

    def list(self, objects: dict[str, dict[str, object]]) -> tuple[int, bytes, dict[str, str]]:
        """Listing, version 2. A page has 100 entries unless more are asked for."""
        query = self.query
        if query.get("list-type") != "2":
            raise Refusal(400, "InvalidArgument", "the stand-in lists by version 2 only")
        encode = (lambda text: quote(text, safe="")) if query.get("encoding-type") == "url" else escape
        prefix, delimiter, most = (
            query.get("prefix", ""),
            query.get("delimiter", ""),
            int(query.get("max-keys") or 100),
        )
        token = query.get("continuation-token")
        after = base64.b64decode(token).decode() if token else query.get("start-after", "")
        contents, prefixes, last, more = [], [], "", False
        for key in sorted(objects):
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key[len(prefix) :]
            group = prefix + rest.split(delimiter, 1)[0] + delimiter if delimiter and delimiter in rest else None
            if group is not None and (group in prefixes or after.startswith(group)):
                last = key
                continue
            if len(contents) + len(prefixes) >= most:
                more = True
                break
            last = key
            if group is not None:
                prefixes.append(group)
            else:
                contents.append(_content(objects[key], encode(key)))
        following = f"<NextContinuationToken>{base64.b64encode(last.encode()).decode()}</NextContinuationToken>"
        return _xml(
            f"<ListBucketResult><Name>{self.bucket}</Name><Prefix>{encode(prefix)}</Prefix>"
            f"<KeyCount>{len(contents) + len(prefixes)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            + ("<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else "")
            + f"<IsTruncated>{str(more).lower()}</IsTruncated>{following if more else ''}{''.join(contents)}"
            + "".join(f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>" for name in prefixes)
            + "</ListBucketResult>"
        )

    def delete_many(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Up to a thousand at once; missing ones count as deleted."""
        if "content-md5" not in self.lower:
            raise Refusal(400, "MissingArgument", "Content-MD5")
        root = ET.fromstring(body)
        keys = [item.findtext("Key") or "" for item in root.iter("Object")]
        if len(keys) > 1000:
            raise Refusal(400, "MalformedXML")
        for key in keys:
            self.disk.remove(self.bucket, key)
        url = self.query.get("encoding-type") == "url"
        quiet = (root.findtext("Quiet") or "").lower() == "true"
        listed = (
            ""
            if quiet
            else "".join(
                f"<Deleted><Key>{quote(key, safe='') if url else escape(key)}</Key></Deleted>" for key in keys
            )
        )
        encoding = "<EncodingType>url</EncodingType>" if url else ""
        return _xml(f"<DeleteResult>{encoding}{listed}</DeleteResult>")


def _content(about: dict[str, object], name: str) -> str:
    changed = datetime.fromtimestamp(float(str(about["time"])), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{name}</Key><LastModified>{changed}</LastModified><ETag>&quot;{about['etag']}&quot;</ETag>"
        f"<Type>Normal</Type><Size>{about['size']}</Size><StorageClass>Standard</StorageClass></Contents>"
    )


def _xml(text: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return 200, body, {"Content-Type": "application/xml", **(headers or {})}


def main() -> None:
    """Serve until killed."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    Handler.disk = Disk(folder)
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main() or os.EX_OK)
