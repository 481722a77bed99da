"""COO-LLM, the data plane: an LLM gateway on Flask, gunicorn and gevent."""

__version__ = "0.1.0"
