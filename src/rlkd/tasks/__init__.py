"""The tasks that a student is distilled for, each a folder with the same file names."""
