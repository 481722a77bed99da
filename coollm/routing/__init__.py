"""Routing ranks targets and judges failures. It never calls a vendor and never picks a key: the limiter leases the first in the order that has room."""
