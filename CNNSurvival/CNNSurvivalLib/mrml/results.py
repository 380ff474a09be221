"""The result as nodes: tables, a chart and a record, which are saved with the scene."""

from __future__ import annotations

import json
from typing import NamedTuple, Optional

import numpy as np

from ..errors import Cancelled
from ..hazards import MONTH_DAYS, step_curve
from ..prediction import RESEARCH_USE_ONLY, Prediction
from ..record import from_record, to_record
from ..report.tables import to_dict
from ..report.text import summary
from .nodes import ATTRIBUTE, hierarchy_of, nodes_of, parent_item, segments_of


class Result(NamedTuple):
    """The nodes that one prediction leaves in the scene."""

    curve: object  # vtkMRMLTableNode: months, survival, its spread over slices, its interval where there is one
    slices: object  # vtkMRMLTableNode: the slices used, best first
    summary: object  # vtkMRMLTableNode: report.text.summary
    reference: object  # vtkMRMLTableNode: the reference cohort's Kaplan-Meier curve
    survival_series: object  # vtkMRMLPlotSeriesNode, and so the next three
    low_series: object  # of the interval; of the slices' spread where the population has no interval
    high_series: object
    reference_series: object
    chart: object  # vtkMRMLPlotChartNode
    record: object  # vtkMRMLTextNode: report.tables.to_dict, record.to_record and the inputs, as JSON
    # vtkMRMLPlotSeriesNode: the slices' spread, in the chart where low_series and high_series are the interval. Scenes
    # of earlier versions lack them.
    spread_low_series: object = None
    spread_high_series: object = None


_CLASSES = Result(
    curve="vtkMRMLTableNode",
    slices="vtkMRMLTableNode",
    summary="vtkMRMLTableNode",
    reference="vtkMRMLTableNode",
    survival_series="vtkMRMLPlotSeriesNode",
    low_series="vtkMRMLPlotSeriesNode",
    high_series="vtkMRMLPlotSeriesNode",
    reference_series="vtkMRMLPlotSeriesNode",
    chart="vtkMRMLPlotChartNode",
    record="vtkMRMLTextNode",
    spread_low_series="vtkMRMLPlotSeriesNode",
    spread_high_series="vtkMRMLPlotSeriesNode",
)
_OPTIONAL = ("spread_low_series", "spread_high_series")
VOLUME, SEGMENTATION = ATTRIBUTE + "volume", ATTRIBUTE + "segmentation"  # node reference roles
MONTHS, SURVIVAL = "Months", "Survival"  # columns of the tables of curves
_LOW, _HIGH = "10th percentile of slices", "90th percentile of slices"
BLUE, GREY, PALE, ORANGE = (0.12, 0.36, 0.68), (0.55, 0.55, 0.55), (0.62, 0.72, 0.84), (0.80, 0.40, 0.05)
_OUTSIDE = ATTRIBUTE + "outside"  # attribute of the curve's series: "1" where it is drawn as outside the training range


def write_result(scene, prediction: Prediction, volume_node, segmentation_node, segment_id) -> Result:
    """Leave the prediction in the scene as nodes, in a folder beside the CT in the subject hierarchy.

    A former result for the same volume, segmentation and segment is updated in place; no other node is changed.

    Parameters
    ----------
    scene : vtkMRMLScene
    prediction : Prediction
    volume_node, segmentation_node : vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
    segment_id : str
        What the prediction was made of.

    Returns
    -------
    Result

    Raises
    ------
    Cancelled
        Where the inputs have left the scene in the meantime.
    """
    segment = segments_of(segmentation_node).get(segment_id)
    if segment is None or volume_node.GetScene() is not scene or segmentation_node.GetScene() is not scene:
        raise Cancelled("The CT or the segment was removed while the prediction ran.")
    label = f"{volume_node.GetName()} {segment.GetName()}"
    tables, record = _tables(prediction), _record(prediction, volume_node, segmentation_node, segment_id, segment)
    former = _find(scene, volume_node, segmentation_node, segment_id)
    nodes = {}
    for role, class_name, old in zip(Result._fields, _CLASSES, former):
        node = old or scene.AddNewNodeByClass(class_name)
        node.SetAttribute(ATTRIBUTE + "role", role)
        node.SetAttribute(ATTRIBUTE + "segmentID", segment_id)
        node.SetAttribute(ATTRIBUTE + "bundle", prediction.bundle.id)
        node.SetAttribute(ATTRIBUTE + "sha256", prediction.bundle.sha256)
        node.SetNodeReferenceID(VOLUME, volume_node.GetID())
        node.SetNodeReferenceID(SEGMENTATION, segmentation_node.GetID())
        nodes[role] = node
    result = Result(**nodes)
    _name(result, label, segment.GetName(), prediction)
    for role, table in tables.items():
        _fill_table(getattr(result, role), table)
    _fill_series(result, prediction)
    _fill_chart(result, label, segment.GetName(), prediction)
    result.record.SetText(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False))
    _style(result, former)
    _mark(result.survival_series, not prediction.inside_training_range)
    _place(scene, volume_node, result, former, f"CNNSurvival results: {segment.GetName()}")
    return result


def find_result(scene, volume_node, segmentation_node, segment_id) -> Optional[Result]:
    """The nodes of the last prediction for these inputs; None where there is none, or some were deleted."""
    if scene is None or volume_node is None or segmentation_node is None or not segment_id:
        return None
    found = _find(scene, volume_node, segmentation_node, segment_id)
    missing = [role for role, node in zip(Result._fields, found) if node is None]
    return found if set(missing) <= set(_OPTIONAL) else None


def all_results(scene) -> list[Result]:
    """Every whole result in the scene, in the order in which they were made."""
    found = []
    for record in nodes_of(scene, "vtkMRMLTextNode"):
        if record.GetAttribute(ATTRIBUTE + "role") == "record":
            found.append(find_result(scene, *predicted_from(record)))
    return [result for result in found if result is not None]


def predicted_from(record) -> tuple:
    """(CT, segmentation, segment ID) that a record's prediction was made from; None for a node that is gone."""
    nodes = (record.GetNodeReference(role) for role in (VOLUME, SEGMENTATION))
    return (*nodes, record.GetAttribute(ATTRIBUTE + "segmentID"))


def label_of(result: Result) -> str:
    """A result's name for people: the CT's and the segment's names."""
    inputs = read_record(result).get("inputs", {})
    return f"{inputs.get('volume', '?')} {inputs.get('segment', '?')}"


def read_prediction(result: Result, bundles) -> Optional[Prediction]:
    """The prediction of a result, restored; None where its model is not among the bundles."""
    record = read_record(result)
    for bundle in bundles:
        prediction = from_record(record, bundle)
        if prediction is not None:
            return prediction
    return None


def read_record(result: Result) -> dict:
    """What ``write_result`` recorded: see ``Result.record``; {} where the text is damaged."""
    try:
        record = json.loads(result.record.GetText() or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _find(scene, volume_node, segmentation_node, segment_id) -> Result:
    """The result's nodes, None for those that are not in the scene."""
    wanted = {VOLUME: volume_node.GetID(), SEGMENTATION: segmentation_node.GetID()}
    found = {}
    for class_name in dict.fromkeys(_CLASSES):
        for node in nodes_of(scene, class_name):
            if node.GetAttribute(ATTRIBUTE + "segmentID") == segment_id and all(
                node.GetNodeReferenceID(role) == node_id for role, node_id in wanted.items()
            ):
                found.setdefault((node.GetAttribute(ATTRIBUTE + "role"), class_name), node)
    return Result(**{role: found.get((role, class_name)) for role, class_name in zip(Result._fields, _CLASSES)})


def _tables(prediction: Prediction) -> dict:
    """role -> [(column name, values)], rounded for people; full precision is in the record."""
    p, s = prediction, prediction.slices
    days, reference = step_curve(*p.bundle.population.kaplan_meier, p.time_days[-1])
    rows = summary(p)
    axis = "KJI"[s.axis]
    risk_months = p.bundle.risk_time_days / MONTH_DAYS
    interval = [
        (name, np.round(curve, 4)) for name, curve in zip(_interval_names(p), (p.interval_low, p.interval_high))
    ]
    return {
        "curve": [
            (MONTHS, np.round(p.time_days / MONTH_DAYS, 2)),
            (SURVIVAL, np.round(p.survival, 4)),
            (_LOW, np.round(p.survival_low, 4)),
            (_HIGH, np.round(p.survival_high, 4)),
            *interval,
        ],
        "slices": [
            ("Rank", np.arange(1, len(s) + 1)),
            (f"Slice ({axis})", s.slice_index),
            (f"{risk_months:.0f}-month risk (%)", np.round(100 * p.slice_risk, 1)),
            ("Area (mm2)", np.rint(s.area_mm2).astype(int)),
            ("Mean grey level", np.rint(s.mean_intensity).astype(int)),
            ("Used", p.used.astype(int)),
            *((f"{name} (mm)", np.round(column, 1)) for name, column in zip("RAS", s.center_ras.T)),
        ],
        "summary": [("Result", [row[0] for row in rows]), ("Value", [row[1] for row in rows])],
        "reference": [(MONTHS, np.round(days / MONTH_DAYS, 2)), (SURVIVAL, np.round(reference, 4))],
    }


def _record(prediction, volume_node, segmentation_node, segment_id, segment) -> dict:
    inputs = {
        "volume": volume_node.GetName(),
        "segmentation": segmentation_node.GetName(),
        "segment": segment.GetName(),
        "segment_id": segment_id,
    }
    return {**to_dict(prediction), **to_record(prediction), "inputs": inputs}


def _interval_names(prediction: Prediction) -> tuple:
    """Columns, and series, of the interval: "95% interval: low" and "... high"; () where there is none."""
    if prediction.interval_low is None:
        return ()
    return tuple(f"{prediction.population.interval_level:.0%} interval: {end}" for end in ("low", "high"))


def _name(result: Result, label: str, segment_name: str, prediction: Prediction) -> None:
    spread = (f"{segment_name}: 10% of slices", f"{segment_name}: 90% of slices")
    low, high = _interval_names(prediction) or spread
    names = Result(
        curve=f"{label}: survival curve",
        slices=f"{label}: slices",
        summary=f"{label}: summary",
        reference=f"{label}: reference cohort",
        # The series' names are the chart's legend, which covers the curves if they are long.
        survival_series=f"{segment_name}: survival",
        low_series=low,
        high_series=high,
        reference_series="Reference cohort",
        chart=f"{label}: survival chart",
        record=f"{label}: prediction record",
        spread_low_series=spread[0],
        spread_high_series=spread[1],
    )
    for node, name in zip(result, names):
        node.SetName(name)


def _fill_table(node, columns) -> None:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    table = vtk.vtkTable()
    for name, values in columns:
        if isinstance(values, np.ndarray):
            kind = vtk.VTK_INT if np.issubdtype(values.dtype, np.integer) else vtk.VTK_DOUBLE
            dtype = np.intc if kind == vtk.VTK_INT else np.double
            column = numpy_to_vtk(np.ascontiguousarray(values, dtype), deep=True, array_type=kind)
        else:
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(value)
        column.SetName(name)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)


def _fill_series(result: Result, prediction: Prediction) -> None:
    low, high = _interval_names(prediction) or (_LOW, _HIGH)
    columns = (SURVIVAL, low, high, SURVIVAL, _LOW, _HIGH)
    for node, column in zip(_series(result), columns):
        table = result.reference if node is result.reference_series else result.curve
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName(MONTHS)
        node.SetYColumnName(column)


def _series(result: Result) -> tuple:
    band, spread = (result.low_series, result.high_series), (result.spread_low_series, result.spread_high_series)
    return (result.survival_series, *band, result.reference_series, *spread)


def _fill_chart(result: Result, label: str, segment_name: str, prediction: Prediction) -> None:
    """The series in the order in which they are drawn, the curve on top; what the user added stays below them."""
    chart = result.chart
    spread = (result.spread_low_series, result.spread_high_series)
    behind = () if prediction.interval_low is None else spread
    wanted = (result.reference_series, *behind, result.low_series, result.high_series, result.survival_series)
    ids = [node.GetID() for node in wanted]
    own = {node.GetID() for node in (*wanted, *spread)}
    shown = [chart.GetNthPlotSeriesNodeID(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    if [series_id for series_id in shown if series_id in own] != ids:
        for series_id in own & set(shown):
            chart.RemovePlotSeriesNodeID(series_id)
        for series_id in ids:
            chart.AddAndObservePlotSeriesNodeID(series_id)
    # A plot view cuts a long title at both ends.
    outside = f"{segment_name}: outside what the model learned from"
    chart.SetTitle(f"{label}: predicted survival" if prediction.inside_training_range else outside)
    result.reference_series.SetDescription(prediction.bundle.population.reference_label)
    chart.SetXAxisRange(0, float(np.ceil(prediction.time_days[-1] / MONTH_DAYS / 6) * 6))


def _style(result: Result, former: Result) -> None:
    """Colours and lines of new nodes; older ones may have been changed by the user and keep theirs."""
    if former.chart is None:
        set_axes(result.chart, result.chart.GetXAxisRange()[1])
    band, spread = (BLUE, 1, "Dash"), (PALE, 1, "Dot")
    looks = ((BLUE, 3, "Solid"), band, band, (GREY, 2, "Solid"), spread, spread)
    for node, old, (color, width, line) in zip(_series(result), _series(former), looks):
        if old is None:
            node.SetPlotType(node.PlotTypeScatter)
            node.SetMarkerStyle(node.MarkerStyleNone)
            node.SetLineStyle(node.GetLineStyleFromString(line.lower()))
            node.SetLineWidth(width)
            node.SetColor(*color)


def _mark(series, outside: bool) -> None:
    """Draw the curve dashed and orange where the case is outside the training range, as usual where it is not.

    Only when that changes, so that a colour that the user chose stays.
    """
    if (series.GetAttribute(_OUTSIDE) == "1") != outside:
        series.SetColor(*(ORANGE if outside else BLUE))
        series.SetLineStyle(series.GetLineStyleFromString("dash" if outside else "solid"))
        series.SetAttribute(_OUTSIDE, "1" if outside else "0")


def set_axes(chart, months: float) -> None:
    """Titles and ranges of a chart of survival; months: the end of the last curve."""
    chart.SetXAxisTitle("Months")
    chart.SetYAxisTitle("Survival probability (research use only)")
    chart.SetXAxisRangeAuto(False)
    chart.SetYAxisRangeAuto(False)
    chart.SetXAxisRange(0, float(np.ceil(months / 6) * 6))
    chart.SetYAxisRange(0, 1)
    chart.SetLegendVisibility(True)
    chart.SetDescription(RESEARCH_USE_ONLY)


def _place(scene, volume_node, result: Result, former: Result, folder_name: str) -> None:
    """Put new nodes into the result's folder, beside the CT; what the user has moved stays where it is."""
    hierarchy = hierarchy_of(scene)
    if hierarchy is None:
        return
    marker = ATTRIBUTE + "folder"
    folders = [parent_item(hierarchy, node) for node in former if node is not None]
    folder = next((item for item in folders if item and hierarchy.GetItemAttribute(item, marker)), None)
    if folder is None:
        parent = parent_item(hierarchy, volume_node)
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID() if parent is None else parent, folder_name)
        hierarchy.SetItemAttribute(folder, marker, "1")
    for node, old in zip(result, former):
        if old is None:
            hierarchy.CreateItem(folder, node)
