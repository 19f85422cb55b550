"""`PostgreSQLStore`."""
