"""The clients for asyncio; `gateway.sdk._sync` is made from this by `python gateway/sdk/generate.py`."""
