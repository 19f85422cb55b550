"""The driver of `MongoDBStore`."""
