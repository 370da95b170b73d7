"""The logs service (8004): tail, follow and search the logs of sessions."""
