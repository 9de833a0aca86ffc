"""The life of containers: from intents in the log to processes, and from exits to events."""
