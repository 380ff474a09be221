"""A prediction in words, tables, on a page and as a folder of files. May import numpy, no window and no scene."""
