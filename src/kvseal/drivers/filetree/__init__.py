"""`FileTreeStore`: a folder for each collection, a file for each entry."""
