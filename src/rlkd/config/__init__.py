"""Settings: the grammar of overrides, their composition by Hydra, and the typed options of a run."""
