"""The command line of CNNSurvival, ``cnn-survival``: prediction without Slicer, and (growing) the model's training.

It imports CNNSurvivalLib, never the other way round. Its readers and figures use SimpleITK, pydicom, highdicom,
scikit-image and matplotlib, which the library must do without.
"""
