"""The stages of the chain, each a function of network, data, settings and folder."""
