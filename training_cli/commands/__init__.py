"""The commands of ``cnn-survival``, a file each: the options and what is printed; the work is in the other folders.

Files named *_options hold options that several commands share.
"""
