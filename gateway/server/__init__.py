"""The control plane (8001): REST API and the reconcile loop."""
