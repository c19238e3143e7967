"""The bench: how one candidate is judged."""
