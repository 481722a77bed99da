"""The section `backup` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from coollm.core.config.sections import Positive, Section, doc
from coollm.core.config.values import Duration
from coollm.core.secrets import Secret


class S3(Section, frozen=True):
    """A store with the API of Amazon S3."""

    endpoint: Annotated[str | None, doc("Its address; Amazon's, or $AWS_ENDPOINT_URL, if not given.", "https://s3.company.com")] = None
    region: Annotated[str | None, doc("Region; $AWS_REGION or the AWS configuration's if not given.", "eu-central-1")] = None
    path_style: Annotated[bool | None, doc("The bucket is in the path and not in the host's name; by default wherever `endpoint` is given.")] = None
    access_key_id: Annotated[Secret | None, doc("Whose access; the AWS SDK's own places are searched if not given.", "${secret:s3-id}", password=True)] = None
    secret_access_key: Annotated[Secret | None, doc("The secret of `access_key_id`.", "${secret:s3-key}", password=True)] = None
    ca_file: Annotated[str | None, doc("Who signs its certificate, PEM; the system's authorities if not given.", "/etc/coollm/s3-ca.pem")] = None
    server_side_encryption: Annotated[Literal["AES256", "aws:kms"] | None, doc("Encryption that the store adds to ours.")] = None
    kms_key_id: Annotated[str | None, doc("With `aws:kms`: which key.", "alias/backups")] = None
    object_lock_days: Annotated[Positive | None, doc("Nobody can delete a backup for so long, if the bucket has Object Lock.", 30)] = None
    object_lock_mode: Annotated[Literal["GOVERNANCE", "COMPLIANCE"], doc("With `object_lock_days`: whether some may nevertheless.")] = "GOVERNANCE"
    checksums: Annotated[
        Literal["when_supported", "when_required"], doc("Whether uploads carry checksums in their trailers, which some stores do not know.")
    ] = "when_supported"
    part_mb: Annotated[Annotated[int, Meta(ge=5, le=5000)], doc("Size of the parts that a backup is uploaded in, MiB.")] = 16
    bandwidth_mb_per_second: Annotated[Annotated[float, Meta(gt=0)] | None, doc("Most that an upload takes, MB each second.", 20)] = None


class Keep(Section, frozen=True):
    """Which backups `coollm backup prune` keeps: those that any of these asks for, and always the newest one and the last one that was drilled."""

    last: Annotated[Annotated[int, Meta(ge=1)], doc("The newest.")] = 3
    daily: Annotated[Annotated[int, Meta(ge=0)], doc("The last of each of so many days.")] = 7
    weekly: Annotated[Annotated[int, Meta(ge=0)], doc("The last of each of so many weeks.")] = 4
    monthly: Annotated[Annotated[int, Meta(ge=0)], doc("The last of each of so many months.")] = 12
    yearly: Annotated[Annotated[int, Meta(ge=0)], doc("The last of each of so many years.")] = 0
    generations: Annotated[Annotated[int, Meta(ge=2)], doc("How many generations of the configuration are kept on the host.")] = 50
    generation_days: Annotated[Positive | None, doc("How old they may become; those in force and the one before stay in any case.", 365)] = None

    def kept_generations(self, now: float) -> tuple[int, float]:
        """How many stay, and since which time of the epoch they have to have been applied."""
        return self.generations, now - self.generation_days * 86400 if self.generation_days else 0.0


class Schedule(Section, frozen=True):
    """When `coollm backup schedule` lets timers run; calendar events of systemd.time(7)."""

    full: Annotated[str | None, doc("Full backups, each followed by `backup prune`.", "daily")] = "daily"
    config: Annotated[str | None, doc("Backups of configuration and secrets alone.", "hourly")] = None
    drill: Annotated[str | None, doc("Restores to prove the newest full backup; needs `drill_identity_file`.", "weekly")] = "weekly"
    random_delay: Annotated[Duration, doc("Each run is later by at most so much, so that many hosts do not come at once.", "30m")] = Duration(1800)


class Backup(Section, frozen=True):
    """Encrypted copies of all that a gateway needs to begin anew elsewhere."""

    target: Annotated[
        str | None, doc("A directory, or s3://BUCKET/PREFIX; /var/backups/coollm on an installed host if not given.", "s3://company-backups/coo-llm")
    ] = None
    s3: Annotated[S3, doc("The store of an s3:// target.")] = S3()
    recipients: Annotated[
        tuple[str, ...],
        doc("Who can read backups: public keys of age or ssh, or gpg:KEY. The private ones do not belong on this host.", ["age1…"]),
    ] = ()
    drill_identity_file: Annotated[
        str | None, doc("The private key of one of the recipients, for drills by a timer: one that is for this alone.", "/etc/coollm/drill.key")
    ] = None
    keep: Annotated[Keep, doc("What is kept.")] = Keep()
    schedule: Annotated[Schedule, doc("When backups are made.")] = Schedule()
