"""The ports: what the engine asks of the world, as Protocols of a few verbs with plain inputs and outputs.

Each port has one contract suite in tests/contracts, run over the simulated and the Linux driver. Every verb is
idempotent for the same identifiers: doing it twice is doing it once, undoing what is not there is no error. Drivers
raise `PortError` for what the world refused, and nothing else.
"""
