"""What is told of each request: a log line and metrics."""
