"""`coollm`: the table of commands and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from coollm_cli import output
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Row(NamedTuple):
    """A command: its name, where it is, and its help. The module is imported when the command is called, not before, so that
    `coollm --help` costs little more than Typer.
    """

    name: str
    place: str
    help: str


COMMANDS = (
    Row("init", "init:init", "Write a commented configuration that starts as it is."),
    Row("demo", "demo:demo", "Show the gateway at work in front of simulated vendors."),
    Row("serve", "serve:serve", "Run the gateway in the foreground."),
    Row("simulate", "simulate:simulate", "Run the simulated vendors alone."),
    Row("chat", "chat:chat", "Send one request through the running gateway."),
    Row("models", "models:models", "List the models that the running gateway serves."),
    Row("providers", "providers:app", "List the providers and their keys; test every key with a live request."),
    Row("keys", "keys:app", "Add, rotate, retire and test vendor keys."),
    Row("route", "route:app", "Explain which key serves a request, and why."),
    Row("usage", "usage:app", "Report, export and verify what requests used and cost."),
    Row("budget", "budget:app", "List, set and verify budgets."),
    Row("clients", "clients:app", "Make, change, rotate and revoke the keys of clients, and set their limits."),
    Row("admins", "admins:app", "Make and revoke administrators; test the directory server."),
    Row("login", "login:login", "Log in to a gateway's admin API with a name and a password."),
    Row("secrets", "secrets:app", "Set, list and import encrypted secrets; change the master key."),
    Row("config", "config:app", "Validate, show, explain and apply the configuration."),
    Row("install", "install:install", "Install the gateway on this host."),
    Row("uninstall", "install:uninstall", "Remove the gateway from this host."),
    Row("start", "instances:start", "Start every instance of this host."),
    Row("stop", "instances:stop", "Stop every instance of this host."),
    Row("restart", "instances:restart", "Restart the instances of this host."),
    Row("scale", "instances:scale", "Run so many instances on this host."),
    Row("drain", "instances:drain", "Close an instance to new connections."),
    Row("undrain", "instances:undrain", "Open a drained instance to new connections again."),
    Row("upgrade", "upgrade:upgrade", "Go to another release."),
    Row("rollback", "upgrade:rollback", "Go back to the release that ran before the last upgrade."),
    Row("orders", "orders:app", "Show and carry out what was ordered in the web console."),
    Row("undo", "undo:undo", "Take the last change of this host back."),
    Row("backup", "backup:app", "Make, verify, restore and prove encrypted backups."),
    Row("fleet", "fleet:app", "Operate many hosts over ssh."),
    Row("lb", "lb:app", "Write haproxy's configuration, and steer what it sends to each host."),
    Row("monitoring", "monitoring:app", "Write and check files for Prometheus, Alertmanager and Grafana."),
    Row("audit", "audit:app", "Show, search and verify the audit log."),
    Row("tls", "tls:app", "Show the gateway's certificate, and renew it while it runs."),
    Row("firewall", "firewall:app", "Close this host but for ssh and the gateway."),
    Row("compliance", "compliance:app", "Report evidence; export and erase what is kept of a client."),
    Row("status", "status:status", "Show the instances that run on this host."),
    Row("top", "status:top", "Watch the instances of this host."),
    Row("logs", "logs:logs", "Show the gateway's log."),
    Row("capacity", "capacity:capacity", "Say how much load this host can take."),
    Row("incident", "incident:app", "Collect what is needed to look into an incident, without secrets."),
    Row("doctor", "doctor:doctor", "Check everything that a healthy production host needs."),
    Row("maintenance", "maintenance:maintenance", "Do the regular checks and say what there is to look at."),
    Row("explain", "explain:explain", "Explain a code and say what to do."),
    Row("health", "health:health", "Say in one word how the gateway is, and why."),
    Row("completion", "completion:completion", "Print the completion script for a shell."),
    Row("help", "help:help_topic", "Explain a topic, such as exit-codes."),
)


class LazyGroup(TyperGroup):
    """Knows all commands by the table and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {row.name: TyperCommand(row.name, callback=None, help=row.help) for row in COMMANDS}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Puts the real command in the place of its row."""
        row = next((row for row in COMMANDS if args and row.name == args[0]), None)
        if row is not None:
            self.commands[row.name] = load(row)
        return super().resolve_command(ctx, args)


def load(row: Row) -> Any:
    """The command of a row."""
    module, _, attribute = row.place.partition(":")
    found = getattr(import_module(f"coollm_cli.commands.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        wrapped = typer.Typer(add_completion=False)
        wrapped.command(row.name, help=found.__doc__)(found)
        found = wrapped
    command = get_command(found)
    command.name = row.name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from coollm import __version__

        output.write(f"coollm {__version__}\n")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """COO-LLM: the LLM gateway you run like a Unix service.

    A first look: [bold]coollm demo[/bold]. A gateway of your own: [bold]coollm init[/bold], then [bold]coollm serve[/bold].
    """


def main() -> None:
    """Runs the command line and ends the process with the exit code of the table (`coollm help exit-codes`)."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. No traceback reaches the user."""
    from coollm.core.errors import CoollmError

    if "_COOLLM_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        found = get_command(app).main(arguments, prog_name="coollm", standalone_mode=False)
        exit_code = output.show(found) if isinstance(found, output.Result) else found if isinstance(found, int) else 0
        sys.stdout.flush()
    except CoollmError as error:
        output.say_error(error)
        return error.exit_code
    except typer.TyperException as error:
        output.fail(error.format_message() or "a command is missing", "coollm --help lists the commands")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except PermissionError as error:
        output.fail(f"{error.filename}: permission denied", "it belongs to another user: use sudo, or be that user")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the last line of defence
        return _fault(error)
    return exit_code


def _fault(error: Exception) -> int:
    """A fault of ours: one line for the user, the frames without their variables (those may hold secrets) for a report."""
    import tempfile
    import traceback

    frames = "".join(f"{frame.filename}:{frame.lineno} {frame.name}\n" for frame in traceback.extract_tb(error.__traceback__))
    with tempfile.NamedTemporaryFile("w", prefix="coollm-fault-", suffix=".txt", delete=False) as file:
        file.write(f"{type(error).__name__}\n{frames}")
    output.fail(f"this is a fault of coollm ({type(error).__name__}), not yours", f"please report it with the file {file.name}")
    return 1


if __name__ == "__main__":
    main()
