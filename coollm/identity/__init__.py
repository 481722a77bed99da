"""Who may use the gateway, and who may administer it."""
