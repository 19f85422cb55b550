"""`RocksDBStore`."""
