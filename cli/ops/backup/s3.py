"""Backups in a store with the API of Amazon S3. Uploads in parts go on where they were broken off; nothing is overwritten.

Sources: https://boto3.amazonaws.com/v1/documentation/api/latest/reference/services/s3.html (put_object and complete_multipart_upload: IfNoneMatch; list_parts),
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html, https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html
(request_checksum_calculation, addressing_style), botocore's source for when `request-created` is told.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from coollm_cli.ops.backup.target import ABANDONED_SECONDS, Step, Stored

from coollm.core.config.backup import S3
from coollm.core.errors import CheckFailed, OperationFailed, Unreachable

CONNECT_SECONDS = 10
READ_SECONDS = 60
ATTEMPTS = 5
MEBIBYTE = 1024 * 1024
READ_BYTES = 256 * 1024
MOST_PARTS = 10_000
PAUSE_SECONDS = 0.5

_MISSING = ("NoSuchKey", "404", "NotFound")
_WORDS = {
    "NoSuchBucket": ("there is no such bucket", "make it, or name another one: backup.target"),
    "AccessDenied": ("access is denied", "its policy has to allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"),
    "InvalidAccessKeyId": ("the access key is not known there", "backup.s3.access_key_id, or the credentials of the AWS SDK"),
    "SignatureDoesNotMatch": ("the secret of the access key is wrong", "backup.s3.secret_access_key, or the credentials of the AWS SDK"),
    "RequestTimeTooSkewed": ("the clocks of this host and of the store differ by too much", "set this host's clock: timedatectl"),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "InvalidRetentionPeriod": ("the bucket does not take the time of object_lock_days", "backup.s3.object_lock_days"),
}
_UNKNOWN = (405, 501)
"""How a store says that it does not know a request."""

_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412")


class S3Target:
    """A prefix of a bucket."""

    def __init__(self, url: str, settings: S3) -> None:
        """Raises OperationFailed if the SDK is not installed, or does not know a region. Nothing is connected yet."""
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{self.bucket}/{self._prefix}"
        self._settings = settings
        self._client = _connect(settings)
        self._pace = _Pace(settings.bandwidth_mb_per_second)
        events = self._client.meta.events
        # What is read to be hashed is not sent: only what is read after that has a pace.
        events.register_first("request-created.s3", lambda **_: self._pace.off())
        events.register_last("request-created.s3", lambda **_: self._pace.on())

    def names(self) -> list[Stored]:
        """See Target."""
        found = []
        with self._translated():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._prefix, Delimiter="/"):
                found += [Stored(one["Key"].removeprefix(self._prefix), int(one["Size"])) for one in page.get("Contents", ())]
        return found

    def open(self, name: str) -> BinaryIO:
        """See Target. A connection that breaks off is made again, and goes on where it was."""
        return io.BufferedReader(_Reader(self, self._prefix + name), READ_BYTES)

    def put(self, name: str, source: Path, kept: dict[str, Any], note: Callable[[], None], step: Step) -> None:
        """See Target. `kept` holds the id of the upload: the parts that are there are not sent again."""
        size = source.stat().st_size
        part_bytes = max(self._settings.part_mb * MEBIBYTE, -(-size // MOST_PARTS))
        if size <= part_bytes:
            with source.open("rb") as file:
                self._put(name, _Paced(file, 0, size, self._pace))
            step(size)
            return
        key = self._prefix + name
        with self._translated():
            upload, done = self._begin(key, kept, note)
            parts = []
            for number, start in enumerate(range(0, size, part_bytes), 1):
                length = min(part_bytes, size - start)
                if done.get(number, (0, ""))[0] != length:
                    with source.open("rb") as file:
                        body = _Paced(file, start, length, self._pace)
                        sent = self._client.upload_part(
                            Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, ContentLength=length, **self._checksum()
                        )
                    part = {"PartNumber": number, "ETag": sent["ETag"]}
                    if sent.get("ChecksumCRC32"):
                        part["ChecksumCRC32"] = sent["ChecksumCRC32"]
                else:
                    part = {"PartNumber": number, **done[number][1]}
                parts.append(part)
                step(length)
            self._finish(key, upload, parts)
        kept.pop("upload", None)

    def _begin(self, key: str, kept: dict[str, Any], note: Callable[[], None]) -> tuple[str, dict[int, tuple[int, dict[str, str]]]]:
        """The upload that was begun, with its parts, or a new one."""
        from botocore.exceptions import ClientError

        if kept.get("upload"):
            try:
                done = {}
                for page in self._client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=kept["upload"]):
                    for part in page.get("Parts", ()):
                        told = {name: str(part[name]) for name in ("ETag", "ChecksumCRC32") if part.get(name)}
                        done[int(part["PartNumber"])] = (int(part["Size"]), told)
                return str(kept["upload"]), done
            except ClientError as error:
                if _status(error) not in (404, *_UNKNOWN):
                    raise
        begun = self._client.create_multipart_upload(Bucket=self.bucket, Key=key, **self._extras(), **self._checksum())
        kept["upload"], kept["key"] = str(begun["UploadId"]), key
        note()
        return str(begun["UploadId"]), {}

    def _finish(self, key: str, upload: str, parts: list[dict[str, Any]]) -> None:
        from botocore.exceptions import ClientError

        request = {"Bucket": self.bucket, "Key": key, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        try:
            self._client.complete_multipart_upload(**request, IfNoneMatch="*")
        except ClientError as error:
            if _status(error) not in _UNKNOWN:  # a store that does not know the condition
                raise
            self._must_be_free(key)
            self._client.complete_multipart_upload(**request)

    def put_text(self, name: str, text: bytes) -> None:
        """See Target."""
        self._put(name, text)

    def _put(self, name: str, body: Any) -> None:
        from botocore.exceptions import ClientError

        key = self._prefix + name
        request = {"Bucket": self.bucket, "Key": key, "Body": body, **self._extras(), **self._checksum()}
        with self._translated():
            try:
                self._client.put_object(**request, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) not in _UNKNOWN:
                    raise
                self._must_be_free(key)
                self._client.put_object(**request)

    def _must_be_free(self, key: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _code(error) not in _MISSING:
                raise
            return
        raise _taken(key)

    def delete(self, name: str) -> None:
        """See Target."""
        with self._translated():
            self._client.delete_object(Bucket=self.bucket, Key=self._prefix + name)

    def abandon(self, kept: dict[str, Any]) -> None:
        """See Target."""
        if kept.get("upload"):
            with contextlib.suppress(Unreachable, OperationFailed, CheckFailed), self._translated():
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=kept["key"], UploadId=kept["upload"])

    def tidy(self, *, dry_run: bool) -> list[str]:
        """See Target."""
        from botocore.exceptions import ClientError

        old = []
        with self._translated():
            try:
                for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._prefix):
                    for one in page.get("Uploads", ()):
                        if time.time() - one["Initiated"].timestamp() > ABANDONED_SECONDS:
                            old.append(one["Key"].removeprefix(self._prefix))
                            if not dry_run:
                                self._client.abort_multipart_upload(Bucket=self.bucket, Key=one["Key"], UploadId=one["UploadId"])
            except ClientError as error:
                if _status(error) not in _UNKNOWN:
                    raise
        return old

    def read_from(self, key: str, start: int) -> tuple[Any, int]:
        """The body of an object from a place on, and how long the object is. Raises CheckFailed if it is not there."""
        from botocore.exceptions import ClientError

        with self._translated():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key, **({"Range": f"bytes={start}-"} if start else {}))
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise CheckFailed(f"{key.removeprefix(self._prefix)} is not in {self.url}") from error
                raise
            return answer["Body"], start + int(answer["ContentLength"])

    def _checksum(self) -> dict[str, str]:
        return {"ChecksumAlgorithm": "CRC32"} if self._settings.checksums == "when_supported" else {}

    def _extras(self) -> dict[str, Any]:
        wanted = self._settings
        found: dict[str, Any] = {}
        if wanted.server_side_encryption:
            found["ServerSideEncryption"] = wanted.server_side_encryption
            if wanted.kms_key_id:
                found["SSEKMSKeyId"] = wanted.kms_key_id
        if wanted.object_lock_days:
            found["ObjectLockMode"] = wanted.object_lock_mode
            found["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=wanted.object_lock_days)
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the SDK become ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _TAKEN or _status(error) == 412:
                raise _taken(self.url) from error
            words, way_out = _WORDS.get(code, (f"{code}, status {_status(error)}", "the store's own log says more"))
            raise Unreachable(f"{self.url}: {words}", way_out) from error
        except BotoCoreError as error:
            raise Unreachable(f"{self.url} does not answer: {_line(error)}", "backup.s3.endpoint, and its network") from error
        except OSError as error:
            raise Unreachable(f"{self.url} does not answer: {_line(error)}", "backup.s3.endpoint, and its network") from error


class _Reader(io.RawIOBase):
    """An object as it comes. It is asked for again from where it broke off."""

    def __init__(self, target: S3Target, key: str) -> None:
        super().__init__()
        self._target = target
        self._key = key
        self._place = 0
        self._failed = 0
        self._body, self._size = target.read_from(key, 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError

        while True:
            try:
                data = self._body.read(len(buffer))
                if data or self._place >= self._size:
                    break
                reason = f"the answer ended after {self._place} of {self._size} bytes"
            except (BotoCoreError, OSError) as error:
                reason = _line(error)
            self._failed += 1
            if self._failed >= ATTEMPTS:
                raise Unreachable(f"{self._target.url}: {self._key} could not be read: {reason}", "try it again")
            time.sleep(PAUSE_SECONDS * self._failed)
            self._body, _ = self._target.read_from(self._key, self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


class _Pace:
    """How fast is sent at most, over all that is."""

    def __init__(self, megabytes_per_second: float | None) -> None:
        self._rate = megabytes_per_second * 1_000_000 if megabytes_per_second else None
        self._is_on = False
        self._free_at = 0.0

    def on(self) -> None:
        """What is read from now on is sent."""
        self._is_on = True

    def off(self) -> None:
        """It is not."""
        self._is_on = False

    def wait(self, size: int) -> None:
        """Until so many bytes may be sent."""
        if self._rate is None or not self._is_on:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self._rate
        time.sleep(max(0.0, self._free_at - now))


class _Paced(io.RawIOBase):
    """A part of a file, as it is sent."""

    def __init__(self, file: BinaryIO, start: int, length: int, pace: _Pace) -> None:
        super().__init__()
        self._file, self._start, self._length, self._pace = file, start, length, pace
        self._place = 0
        file.seek(start)

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (self._place if whence == 1 else self._length if whence == 2 else 0)
        self._file.seek(self._start + self._place)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = self._length - self._place
        data = self._file.read(left if size is None or size < 0 else min(size, left))
        self._place += len(data)
        self._pace.wait(len(data))
        return data


def _connect(settings: S3) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise OperationFailed("backup.target is of S3, but the boto3 package is not installed", "pip install 'coollm[s3]'") from error
    path_style = settings.path_style if settings.path_style is not None else bool(settings.endpoint)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
        **({"s3": {"addressing_style": "path"}} if path_style else {}),
    )
    key, secret = settings.access_key_id, settings.secret_access_key
    given = {"aws_access_key_id": key.reveal(), "aws_secret_access_key": secret.reveal()} if key and secret else {}
    try:
        return boto3.session.Session().client(
            "s3", endpoint_url=settings.endpoint, region_name=settings.region, verify=settings.ca_file, config=config, **given
        )
    except (BotoCoreError, ValueError) as error:
        raise OperationFailed(f"backup.s3 cannot be used: {_line(error)}", "backup.s3.region, backup.s3.endpoint") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _taken(what: str) -> OperationFailed:
    return OperationFailed(f"{what}: this name is there already, and backups are not overwritten", "coollm backup list")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
