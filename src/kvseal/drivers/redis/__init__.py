"""`RedisStore` and `ValkeyStore`: servers that speak Redis' protocol."""
