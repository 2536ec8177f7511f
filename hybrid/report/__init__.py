"""The placement report: the JSON truth, and the Markdown, HTML and terminal text drawn from it."""
