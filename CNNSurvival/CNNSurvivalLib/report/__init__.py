"""A prediction as pages, tables and folders of files. Imports numpy and the standard library only."""
