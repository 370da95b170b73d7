"""The database: one module a noun, every shared read starts from the caller."""
