"""Old history: sealed, compressed segments beside the log, and what reads, makes and thins them."""
