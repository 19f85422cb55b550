"""The commands that recode a store."""
