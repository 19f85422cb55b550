"""`DiskStore` and `MultiDiskStore`: diskcache's SQLite files."""
