"""The scientist's side: the federation, the round loop, run folders."""
