"""A local page to try matching in a browser; needs the extra ``app`` (Gradio), apart from what :mod:`.work` does."""
