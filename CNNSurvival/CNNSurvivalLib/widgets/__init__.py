"""The boxes and tabs of Slicer's panel and their parts.

From top to bottom: inputs_box, model_box, population_box, patient_box, predict_button, runner, result_box with
curve_view and plot_button, tabs, and a file for each tab. Helpers: painter, marks, tables.

May import qt; computes nothing.
"""
