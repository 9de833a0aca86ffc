"""The ports over a simulated machine: fakes with behaviour, not mocks."""
