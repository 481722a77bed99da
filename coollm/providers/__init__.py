"""Vendor dialects: pure functions between the neutral types and a vendor's bytes. Nothing here does I/O."""
