"""The commands of ``cnn-survival``, a file each: options here, the work in the module of the same name."""
