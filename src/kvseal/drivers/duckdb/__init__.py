"""`DuckDBStore`."""
