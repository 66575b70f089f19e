"""Published corpora in their own layouts, read into one index; each corpus is one file."""
