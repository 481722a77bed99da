"""`coollm orders`: what administrators have ordered in the web console."""

from __future__ import annotations

import typer
from coollm_cli import options
from coollm_cli.ops import orders as ops
from coollm_cli.ops.times import moment
from coollm_cli.output import Result, Table

from coollm.core.orders import Order, Orders
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Show and carry out what was ordered in the web console.", no_args_is_help=True, add_completion=False)

COLUMNS = ("ordered", "by", "command", "state", "told")


@app.callback()
def orders() -> None:
    """Show and carry out what was ordered in the web console: restarts, drained instances, backups and proven restores, and nothing else."""


@app.command("list")
def list_orders(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """List what waits, and what was carried out.

    Example: sudo coollm orders list
    """
    path = find_config(config).absolute()
    kept = Orders(state_directory(path, state_dir))
    waiting, done = kept.waiting(), kept.done()
    return Result(
        {"waiting": [_told(one) for one in waiting], "done": [_told(one) for one in done]},
        [Table(COLUMNS, [_cells(one) for one in (*waiting, *done)], "nothing was ordered")],
        as_json=json,
    )


@app.command()
def run(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """Carry out what waits, each as a command of its own. Systemd says this when an order comes (coollm-orders.path).

    Example: sudo coollm orders run
    """
    path = find_config(config).absolute()
    ended = ops.run(path, state_directory(path, state_dir))
    table = Table(COLUMNS, [_cells(one) for one in ended], "nothing was ordered")
    return Result({"done": [_told(one) for one in ended]}, [table], as_json=json)


def _told(order: Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in Order.__struct_fields__}


def _cells(order: Order) -> tuple[object, ...]:
    state = "waits" if order.exit_code is None else "done" if order.exit_code == 0 else f"exit {order.exit_code}"
    return (moment(order.at), order.by, f"{order.action} {order.argument}".strip(), state, (order.told.splitlines() or [""])[-1])
