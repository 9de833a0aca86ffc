"""`replay report` and `replay serve`: history as a page."""
