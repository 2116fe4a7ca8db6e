"""Code that a scientist might write; the demo and the notebooks send it to the sites as it stands."""
