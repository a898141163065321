"""The gateway: thin tasks, rotation engine, scripts, discovery, vault client."""
