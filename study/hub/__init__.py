"""Samplers laid out as OptunaHub's registry has them: each folder can be published as it is."""
