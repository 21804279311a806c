"""Pages in HTML and Markdown: blocks, templates, number formatting, plot style."""
