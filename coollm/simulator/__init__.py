"""Vendors in a box: OpenAI, Anthropic and Gemini on the wire, faithful enough for the vendors' own SDKs, with faults on demand."""
