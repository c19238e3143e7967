"""The search: what to try, what to keep, and how people see it."""
