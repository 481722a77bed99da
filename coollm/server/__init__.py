"""How the gateway runs under gunicorn."""
