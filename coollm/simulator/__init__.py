"""Vendors in a box: OpenAI, Anthropic, Gemini and the others on the wire, faithful enough for the vendors' own SDKs, with faults on demand."""
