"""What is set in etc/config.yaml; everything else stands there as a comment."""

SAMPLE_TITLE = """COO-LLM configuration, as installed in /etc/coollm/config.yaml.
Secrets stand in /etc/coollm/environment (mode 0600) and are named here as ${NAME}.
Check it with `coollm config validate`."""

SAMPLE_VALUES = {
    "version": "1.0",
    "server": {"listen": ":2906", "admin_api_key": "${ADMIN_KEY}", "workers": 4},
    "llm_providers": [
        {"id": "openai", "type": "openai", "api_keys": ["${OPENAI_API_KEY}"]},
        {"id": "claude", "type": "claude", "api_keys": ["${ANTHROPIC_API_KEY}"]},
    ],
    "api_keys": [{"id": "app-1", "key": "${CLIENT_KEY_1}", "allowed_providers": ["*"]}],
}
