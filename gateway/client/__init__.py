"""The data plane (8002): the OpenAI front and the session proxy."""
