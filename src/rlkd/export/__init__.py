"""Writing a student for use elsewhere: file formats and the model card."""
