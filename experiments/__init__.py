"""Experiments: `kinds` are trained, `studies` measure them, and `core` runs both."""
