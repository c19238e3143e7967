"""OptunaHub's category `samplers`."""
