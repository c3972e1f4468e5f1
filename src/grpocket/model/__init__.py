"""The network as grpocket calls it, for sampling and for training alike."""
