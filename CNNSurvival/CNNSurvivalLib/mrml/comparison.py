"""Two results in one chart."""

from __future__ import annotations

from .nodes import ATTRIBUTE, nodes_of, put_beside
from .results import BLUE, GREY, MONTHS, SURVIVAL, Result, label_of, read_record, set_axes

_COMPARISON = ATTRIBUTE + "comparison"
GREEN = (0.10, 0.50, 0.25)  # orange stands for what lies outside of what the model learned from


def write_comparison(scene, result: Result, other: Result):
    """The chart (vtkMRMLPlotChartNode) of both results' curves and of the cohort; made, or updated in place.

    There is one for each pair of results; it is placed beside the first. A curve of a tumour outside of what its model
    learned from is dashed, and the legend and the title say so.
    """
    chart = _comparison_node(scene, "vtkMRMLPlotChartNode", "chart", result, other)
    series = [
        _comparison_node(scene, "vtkMRMLPlotSeriesNode", role, result, other) for role in ("first", "second", "cohort")
    ]
    tables = (result.curve, other.curve, result.reference)
    names = (label_of(result), label_of(other), "Reference cohort")
    outside = [*(read_record(each).get("inside_training_range") is False for each in (result, other)), False]
    for node, table, name, color, mark in zip(series, tables, names, (BLUE, GREEN, GREY), outside):
        node.SetName(f"{name} (outside)" if mark else name)
        node.SetLineStyle(node.GetLineStyleFromString("dash" if mark else "solid"))
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName(MONTHS)
        node.SetYColumnName(SURVIVAL)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleNone)
        node.SetLineWidth(3 if node is not series[2] else 2)
        node.SetColor(*color)
        if not chart.HasPlotSeriesNodeID(node.GetID()):
            chart.AddAndObservePlotSeriesNodeID(node.GetID())
    chart.SetName(f"{names[0]} and {names[1]}: survival compared")
    marked = "Dashed: outside what the model learned from"  # a plot view cuts a longer title at both ends
    chart.SetTitle(marked if any(outside) else "Predicted survival compared")
    set_axes(chart, max(table.GetTable().GetValue(table.GetNumberOfRows() - 1, 0).ToDouble() for table in tables[:2]))
    for node in (chart, *series):
        put_beside(scene, node, result.chart)
    return chart


def _comparison_node(scene, class_name, role, result: Result, other: Result):
    wanted = {"first": result.record.GetID(), "second": other.record.GetID()}
    for node in nodes_of(scene, class_name):
        if node.GetAttribute(_COMPARISON) == role and all(
            node.GetNodeReferenceID(_COMPARISON + name) == node_id for name, node_id in wanted.items()
        ):
            return node
    node = scene.AddNewNodeByClass(class_name)
    node.SetAttribute(_COMPARISON, role)
    for name, node_id in wanted.items():
        node.SetNodeReferenceID(_COMPARISON + name, node_id)
    return node
