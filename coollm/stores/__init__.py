"""Hot state: counters of limits and the cooling of keys. One contract, several stores; `tests/contract` runs the same suite over all."""
