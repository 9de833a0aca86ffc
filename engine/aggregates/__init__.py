"""The pure core: one module or package per aggregate, each in the order commands, events, state, lifecycle, decide."""
