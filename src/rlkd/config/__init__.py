"""Settings: the grammar of overrides, their composition, and typed options."""
