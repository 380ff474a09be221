"""The module's own tests, which run inside Slicer: "Reload and Test", ctest, or Slicer --testing.

They work on a CT made here, a ball of soft tissue in air-filled lung, and leave nothing behind.
"""

import logging

from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError


class SelfTest:
    """To be mixed into Slicer's test class; every test begins and ends with an empty scene."""

    def setUp(self):
        import slicer

        slicer.mrmlScene.Clear()

    def tearDown(self):
        self.setUp()

    def runTest(self):
        for name in sorted(name for name in dir(self) if name.startswith("test_")):
            self.setUp()
            logging.info(f"Running {name}")
            getattr(self, name)()
            self.tearDown()

    # --- What the tests work on

    def makeCase(self):
        """(volume node, segmentation node) with the segments "Lung" and "GTVp"."""
        import numpy as np
        import slicer
        import vtk

        k, j, i = np.indices((24, 100, 110))
        distance = np.sqrt((3 * (k - 12)) ** 2 + (j - 50) ** 2 + (i - 55) ** 2)
        hu = np.where(distance < 20, 30 + 0.3 * i, -850) + np.random.default_rng(0).normal(0, 15, k.shape)
        matrix = vtk.vtkMatrix4x4()
        for axis, step in enumerate((-1, -1, 3)):  # i to the left, j to posterior, k up
            matrix.SetElement(axis, axis, step)
        volume = slicer.util.addVolumeFromArray(hu.astype(np.int16), matrix, "CT")
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Contours")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for name, mask in (("Lung", (distance >= 20) & (distance < 35)), ("GTVp", distance < 20)):
            segmentation.GetSegmentation().AddEmptySegment(name, name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, name, volume)
        return volume, segmentation

    def makeLogic(self):
        import CNNSurvival

        return CNNSurvival.CNNSurvivalLogic()

    def makeWidget(self):
        """The module's panel."""
        import slicer

        widget = slicer.modules.cnnsurvival.widgetRepresentation().self()
        widget.initializeParameterNode()
        return widget

    def nodes(self):
        """What is in the scene; the panel's own nodes are not the subject."""
        import slicer

        own = ("vtkMRMLScriptedModuleNode", "vtkMRMLSubjectHierarchyNode", "vtkMRMLSelectionNode", "vtkMRMLLayoutNode")
        collection = slicer.mrmlScene.GetNodes()
        nodes = [collection.GetItemAsObject(n) for n in range(collection.GetNumberOfItems())]
        return {(node.GetID(), node.GetName()) for node in nodes if node.GetClassName() not in own}

    # --- Tests

    def test_predict(self):
        import slicer

        from CNNSurvivalLib.mrml.results import read_record

        volume, segmentation = self.makeCase()
        steps = []
        result = self.makeLogic().process(
            volume, segmentation, "GTVp", progress=lambda step, fraction: steps.append(fraction)
        )
        survival = slicer.util.arrayFromTableColumn(result.curve, "Survival")
        self.assertEqual(survival[0], 1)
        self.assertTrue(all(before >= after for before, after in zip(survival, survival[1:])))
        self.assertEqual(result.chart.GetNumberOfPlotSeriesNodes(), 4)
        self.assertGreater(result.slices.GetNumberOfRows(), 3)
        self.assertEqual(steps, sorted(steps))
        self.assertIn("18 months", read_record(result)["sentence"])

    def test_sameNumbersAsTheLibrary(self):
        import numpy as np
        import slicer

        from CNNSurvivalLib import bundle, prediction, slices
        from CNNSurvivalLib.mrml.inputs import predict_nodes

        volume, segmentation = self.makeCase()
        model = bundle.load_bundle(bundle.default_bundle_folder())
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "GTVp", volume)
        geometry = slices.axial_geometry((3, 1, 1))
        expected = prediction.predict(slicer.util.arrayFromVolume(volume), mask, geometry, model)
        found = predict_nodes(volume, segmentation, "GTVp", model)
        self.assertTrue(np.array_equal(found.survival, expected.survival))
        self.assertEqual(found.risk, expected.risk)

    def test_againUpdatesInPlace(self):
        volume, segmentation = self.makeCase()
        first = self.makeLogic().process(volume, segmentation, "GTVp")
        nodes = self.nodes()
        second = self.makeLogic().process(volume, segmentation, "GTVp", maximumSlices=2)
        self.assertEqual([node.GetID() for node in first], [node.GetID() for node in second])
        self.assertEqual(self.nodes(), nodes)
        self.assertEqual(second.slices.GetNumberOfRows(), 2)

    def test_badInputs(self):
        volume, segmentation = self.makeCase()
        segmentation.GetSegmentation().AddEmptySegment("Empty", "Empty")
        before = self.nodes()
        logic = self.makeLogic()
        for arguments, sentence in (
            ((None, segmentation, "GTVp"), "No CT is selected"),
            ((volume, None, "GTVp"), "No segmentation is selected"),
            ((volume, segmentation, "Nose"), "'Lung', 'GTVp', 'Empty'"),
            ((volume, segmentation, "Empty"), "The segment 'Empty' is empty"),
        ):
            with self.assertRaisesRegex(CNNSurvivalError, sentence):
                logic.process(*arguments)
        with self.assertRaisesRegex(CNNSurvivalError, "No slice of the tumour has 99999"):
            logic.process(volume, segmentation, "GTVp", minimumRoi=99999)
        self.assertEqual(self.nodes(), before)

    def test_cancel(self):
        volume, segmentation = self.makeCase()
        before = self.nodes()

        def stop(step, fraction):
            if fraction > 0.5:
                raise Cancelled

        with self.assertRaises(Cancelled):
            self.makeLogic().process(volume, segmentation, "GTVp", progress=stop)
        self.assertEqual(self.nodes(), before)

    def test_panel(self):
        widget = self.makeWidget()
        self.assertFalse(widget.ui.predictButton.enabled)
        self.assertIn("CT volume", widget.ui.predictButton.toolTip)
        volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        self.assertEqual(widget.ui.volumeSelector.currentNodeID, volume.GetID())
        self.assertEqual(widget.ui.segmentSelector.currentNodeID(), segmentation.GetID())
        self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "GTVp")
        self.assertTrue(widget.ui.predictButton.enabled)
        widget.ui.predictButton.click()
        self.assertFalse(widget.ui.resultCollapsibleButton.isHidden())
        self.assertIn("18 months", widget.ui.sentenceLabel.text)
        self.assertGreater(widget.ui.slicesTable.rowCount, 3)
        self.assertIn("Concordance", widget.ui.modelInfoLabel.text)
        widget.ui.segmentSelector.setCurrentSegmentID("Lung")
        self.assertTrue(widget.ui.resultCollapsibleButton.isHidden())
        widget.ui.segmentSelector.setCurrentSegmentID("GTVp")
        self.assertFalse(widget.ui.resultCollapsibleButton.isHidden())

    def test_panelCancels(self):
        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        before = self.nodes()
        runner = widget.runner
        progress, texts = runner._progress, []

        def clickTwice(step, fraction):
            widget.ui.predictButton.click()  # at once: the second half of a double click, does nothing
            texts.append(widget.ui.predictButton.text)
            self.assertFalse(runner._cancelRequested)
            runner._startedAt -= 2 * runner.DOUBLE_CLICK_SECONDS
            widget.ui.predictButton.click()
            progress(step, fraction)

        runner._progress = clickTwice
        try:
            widget.ui.predictButton.click()
        finally:
            del runner._progress
        self.assertEqual(len(texts), 1)
        self.assertEqual(self.nodes(), before)
        self.assertIn("Cancelled", widget.ui.statusLabel.text)
        self.assertNotEqual(widget.ui.predictButton.text, texts[0])
        self.assertTrue(widget.ui.predictButton.enabled)

    def test_panelShowsErrors(self):
        widget = self.makeWidget()
        _volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        segmentation.GetSegmentation().AddEmptySegment("Empty", "Empty")
        widget.ui.segmentSelector.setCurrentSegmentID("Empty")
        widget.ui.predictButton.click()
        self.assertIn("The segment 'Empty' is empty", widget.ui.statusLabel.text)
        self.assertFalse(widget.ui.progressBar.isVisible())

    def test_sampleCase(self):
        widget = self.makeWidget()
        self.assertFalse(widget.ui.sampleButton.isHidden())
        widget.ui.sampleButton.click()
        widget.initializeParameterNode()
        self.assertTrue(widget.ui.sampleButton.isHidden())
        self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "Tumour")
        self.assertTrue(widget.ui.predictButton.enabled)

    def test_panelFollowsTheTickedSlices(self):
        import qt
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        before = slicer.util.arrayFromTableColumn(widget._result().curve, "Survival").copy()
        table = widget.ui.slicesTable
        table.item(0, 0).setCheckState(qt.Qt.Unchecked)
        after = slicer.util.arrayFromTableColumn(widget._result().curve, "Survival").copy()
        self.assertTrue(any(before != after))
        self.assertIn("1 of", widget.ui.warningsLabel.text)
        widget.ui.useAllButton.click()
        again = slicer.util.arrayFromTableColumn(widget._result().curve, "Survival")
        self.assertTrue(all(before == again))
        self.assertEqual(table.item(0, 0).checkState(), qt.Qt.Checked)
        table.setCurrentCell(2, 1)
        red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
        if red:
            height = widget._prediction().slices.center_ras[2][2]
            self.assertAlmostEqual(red.GetSliceToRAS().GetElement(2, 3), height, places=3)

    def test_panelTakesHorizons(self):
        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        for text, row in (("3, 24", "Survival at 3 months"), ("6", "Survival at 6 months")):
            widget.ui.horizonsLineEdit.setText(text)
            widget.ui.horizonsLineEdit.editingFinished()
            self.assertEqual(widget._result().summary.GetCellText(0, 0), row)
        widget.ui.horizonsLineEdit.setText("soon")
        widget.ui.horizonsLineEdit.editingFinished()
        self.assertIn("'soon' is not a list of months", widget.ui.statusLabel.text)

    def test_panelSaysThatTheSegmentHasChanged(self):
        import numpy as np
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        self.assertTrue(widget.ui.staleLabel.isHidden())
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "GTVp", volume)
        mask[12:] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, "GTVp", volume)
        widget.enter()
        self.assertFalse(widget.ui.staleLabel.isHidden())
        widget.ui.predictButton.click()
        self.assertTrue(widget.ui.staleLabel.isHidden())

    def test_compareTwoSegments(self):
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        self.assertFalse(widget.ui.compareComboBox.enabled)
        widget.ui.predictButton.click()
        widget.ui.segmentSelector.setCurrentSegmentID("Lung")
        widget.ui.predictButton.click()
        self.assertEqual(widget.ui.compareComboBox.count, 2)
        widget.ui.compareComboBox.setCurrentIndex(1)
        charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
        compared = [node for node in charts if "compared" in node.GetName()]
        self.assertEqual(len(compared), 1)
        self.assertEqual(compared[0].GetNumberOfPlotSeriesNodes(), 3)

    def test_explain(self):
        import numpy as np
        import slicer

        from CNNSurvivalLib.mrml.explanation import find_explanation

        widget = self.makeWidget()
        volume, segmentation = widget.logic.loadSample()
        widget.initializeParameterNode()
        widget._parameterNode.modelId = "nsclc-zhang2020-1.0"
        widget.ui.maximumSlicesSpinBox.value = 2
        widget.ui.predictButton.click()
        widget.ui.explainButton.click()
        self.assertIn("percentage points", widget.ui.statusLabel.text)
        self.assertTrue(widget.ui.showExplanationCheckBox.checked)
        node = find_explanation(slicer.mrmlScene, widget._result())
        values = slicer.util.arrayFromVolume(node)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Tumour", volume)
        self.assertEqual(values.shape, mask.shape)
        self.assertGreater(np.abs(values[mask > 0]).max(), 0)
        self.assertEqual(np.abs(values[:, :, :60]).max(), 0)
        widget.ui.showExplanationCheckBox.checked = False

    def test_export(self):
        import os
        import tempfile

        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            widget.ui.exportDirectoryButton.directory = folder
            widget.ui.sceneCheckBox.checked = True
            widget.ui.exportButton.click()
            found = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}
        self.assertIn("Written to", widget.ui.statusLabel.text)
        expected = {"report.pdf", "survival_curve.png", "survival_curve.csv", "horizons.csv", "slices.csv",
                    "prediction.json", "scene.mrb"}  # fmt: skip
        self.assertEqual(set(found), expected)
        self.assertGreater(min(found.values()), 100)
        self.assertGreater(found["survival_curve.png"], 10000)
        widget.ui.sceneCheckBox.checked = False

    def test_batchOfTheScene(self):
        import os
        import tempfile

        import slicer

        widget = self.makeWidget()
        volume, _segmentation = self.makeCase()
        second, organs = self.makeCase()
        second.SetName("CT 2")
        organs.GetSegmentation().RemoveSegment("GTVp")
        widget.initializeParameterNode()
        before = self.nodes()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            widget.ui.batchSourceComboBox.currentIndex = 0
            widget.ui.batchDirectoryButton.directory = folder
            widget.ui.batchButton.click()
            self.assertEqual(set(os.listdir(folder)), {"predictions.csv", "failures.csv"})
        self.assertIn("1 of 2 cases predicted", widget.ui.statusLabel.text)
        self.assertEqual(widget.ui.batchTable.rowCount, 2)
        self.assertEqual(widget.ui.batchTable.item(0, 0).text(), "CT")
        self.assertIn("No segment", widget.ui.batchTable.item(1, 3).text())
        self.assertEqual(self.nodes(), before)

    def test_sceneBringsThePanelBack(self):
        import os
        import tempfile

        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.ui.maximumSlicesSpinBox.value = 3
        widget.ui.predictButton.click()
        widget.slices._onUsedChanged([True, False, True])
        sentence = widget.ui.sentenceLabel.text
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            path = os.path.join(folder, "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            widget.initializeParameterNode()
            self.assertTrue(widget.ui.resultCollapsibleButton.isHidden())
            slicer.util.loadScene(path)
        widget.initializeParameterNode()
        self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "GTVp")
        self.assertEqual(widget.ui.maximumSlicesSpinBox.value, 3)
        self.assertEqual(widget.ui.sentenceLabel.text, sentence)
        self.assertEqual(list(widget._prediction().used), [True, False, True])
        self.assertEqual(widget.ui.slicesTable.rowCount, 3)
        self.assertEqual(widget._result().chart.GetNumberOfPlotSeriesNodes(), 4)
