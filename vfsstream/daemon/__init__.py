"""What runs around the replicator: control socket, metrics, heartbeat, MCP server, page."""
