"""`coollm login`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.gateway_client import error_code, error_text, find_gateway
from coollm_cli.ops.secret_input import read_secret
from coollm_cli.ops.times import moment
from coollm_cli.output import Result

from coollm.core.errors import OperationFailed


def login(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Your name at the directory server, or server.webui.admin_id.")],
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The gateway's address; the one of this host if not given.")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="Where the password is; else it is asked for, or read.")] = None,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Log in to a gateway's admin API with a name and a password. The token, good for an hour, goes in the place of an admin key.

    Who has a second factor is asked for its code, too; with --password-file it can be piped in.

    Example: coollm login ann --url https://gateway.company.com
    """
    password = read_secret(f"password of {name}", password_file)
    gateway, asked = find_gateway(config, url), {"name": name, "password": password}
    reply = gateway.post("/admin/v1/login", asked)
    if error_code(reply) == "second_factor_required":
        reply = gateway.post("/admin/v1/login", {**asked, "code": read_secret("code of your authenticator")})
    if reply.status != 200:
        raise OperationFailed(error_text(reply))
    found = reply.body
    return Result(found, [f"{found['name']}: {found['role']}, until {moment(found['ends'])}", found["token"]], as_json=json)
