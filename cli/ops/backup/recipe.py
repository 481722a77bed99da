"""How a backup is restored by hand, with nothing but age (or gpg), zstd and tar: for the day on which there is no gateway, and no coollm either."""

from __future__ import annotations

from coollm_cli.ops.backup.catalog import Note

EXAMPLE = "20261125T101500Z-full-gateway1-3fa9c2"


def recipe(note: Note | None, url: str) -> list[str]:
    """The lines, for one backup or for any."""
    name = note.name if note else EXAMPLE
    archive = note.archive if note else f"{EXAMPLE}.tar.zst.age"
    fetch = [f"   aws s3 cp {url.rstrip('/')}/{one} ." for one in (archive, f"{name}.json")] if url.startswith("s3://") else [f"   cp {url}/{name}.* ."]
    decrypt = f"gpg --decrypt {archive}" if archive.endswith(".gpg") else f"age -d -i recovery.key {archive}"
    tools = "gnupg zstd tar python3" if archive.endswith(".gpg") else "age zstd tar python3"
    return [
        "# Restoring a backup of COO-LLM by hand",
        "",
        f"1. On any Linux host: apt-get install {tools}",
        "2. Fetch the archive and its note:",
        *fetch,
        "3. See that it is what its note says (no line is printed that ends in FAILED):",
        f"""   python3 -c 'import json; n = json.load(open("{name}.json")); print(n["sha256"], "", n["archive"])' | sha256sum -c -""",
        "4. Decrypt and unpack it, with the private key of a recipient:",
        f"   mkdir restored && {decrypt} | zstd -d | tar x -C restored",
        "5. See that every file is what the manifest says:",
        '   cd restored && python3 -c \'import json; m = json.load(open("manifest.json"));'
        ' [print(f["sha256"], "", n) for n, f in m["files"].items()]\' | sha256sum -c --quiet -',
        "",
        "What is where:",
        "   config/config.yaml and config/environment      /etc/coollm",
        "   config/generations                              /var/lib/coollm/generations",
        "   secrets/secrets.json, secrets/vendor-keys.json  /var/lib/coollm",
        "   secrets/master.key                              /etc/coollm/master.key, mode 0600, owner coollm",
        "   ledger/ledger.sqlite                            /var/lib/coollm (a ledger in SQL: ledger/tables, one JSON array a row)",
        "   ledger/logs                                     /var/log/coo-llm",
        "   store/runtime.sqlite, state/store.identity      /var/lib/coollm",
        "   audit                                           evidence: keep it",
        "",
        "On a host where coollm is installed and stopped (coollm stop), put the files there, owner coollm, then coollm start.",
        f"With coollm all of this is: sudo coollm backup restore {name} --target {url.rstrip('/')} --identity recovery.key --in-place",
    ]
