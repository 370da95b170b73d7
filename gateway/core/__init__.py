"""Use cases and the reconcile loop; states what it needs of the world in ports.py."""
