"""COO-LLM, the control plane: the command `coollm`. It imports from `coollm.core` only."""
