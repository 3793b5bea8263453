"""Many nodes: what is done in a cluster, and with the files of several nodes."""
