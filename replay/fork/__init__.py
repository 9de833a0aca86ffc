"""`replay fork`: another history from some point on, decided by the engine's own rules over a model of the world."""
