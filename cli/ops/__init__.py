"""What the commands do, without Typer."""
