"""How much load this host can take: a model of what requests and streams cost, what is measured now, what the limits allow, and how all of it grows."""
