"""How the gateway reaches a session's agent."""
