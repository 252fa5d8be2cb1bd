"""What a machine and a network can do to a node."""
