"""The blocking clients, made from `gateway.sdk._async` by `python gateway/sdk/generate.py`."""
