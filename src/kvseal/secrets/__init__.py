"""Master secrets: what they are, where they come from, and where a generated one is kept."""
