"""The Python SDK: sessions over HTTP, sync and async."""
