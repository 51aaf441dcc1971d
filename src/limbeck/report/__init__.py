"""The report stage: from the finished stages' files to a page, Markdown and JSON."""
