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

    def withPopulations(self, widget, folder):
        """The panel with one model, made from the default one in that folder, for the populations "here" and "there".

        A context: the panel and the settings are as before afterwards.
        """
        import contextlib

        from CNNSurvivalLib import bundle
        from CNNSurvivalLib.widgets.population_box import SETTING

        covariates = [
            {"name": "age_years", "label": "age", "unit": "years", "low": 18, "high": 110},
            {"name": "n_stage", "label": "N stage", "choices": {"N0": 0, "N1": 1, "N2": 2}},
        ]
        age, stage = {"age_years": 0.04}, {"n_stage": 0.5}
        terms = [(-2.6, age), (-0.5, stage), (-3.1, {**age, **stage})]
        model = bundle.load_bundle(bundle.default_bundle_folder())
        entry = {
            "reference_cohort": model.population.info["reference_cohort"],
            "ranges": {"age_years": [40, 88]},
            "covariates": covariates,
            "terms": [{"intercept": intercept, "coefficients": known} for intercept, known in terms],
            "interval": {"level": 0.95, "score_mean": -1.0, "covariance": [[0.04, 0.0], [0.0, 0.05]]},
            "metrics": [],
        }
        there = {**entry, "name": "there", "title": "Patients from there", "offset": 0.7, "covariates": [covariates[1]],
                 "terms": [entry["terms"][1]]}  # fmt: skip
        info = {key: value for key, value in model.info.items() if key not in ("reference_cohort", "format_version")}
        info.update(
            name="self-test", default_population="here",
            populations=[{**entry, "name": "here", "title": "Patients from here", "offset": 0.0}, there],
        )  # fmt: skip
        made = bundle.save_bundle(folder, info, model.weights)

        @contextlib.contextmanager
        def context():
            import qt

            widget.logic.models = lambda folders=(): [(made.folder, made, None)]
            try:
                widget.models.fill()
                widget.initializeParameterNode()
                yield made
            finally:
                del widget.logic.models
                qt.QSettings().remove(SETTING + made.id)
                widget.models.fill()
                widget.initializeParameterNode()

        return context()

    def curve(self, widget):
        """S of the result that is shown."""
        import slicer

        return list(slicer.util.arrayFromTableColumn(widget._result().curve, "Survival"))

    def seriesOf(self, bundle):
        """How many series the chart of a prediction has: of the cohort, the curve, the slices and the interval."""
        return 4 if bundle.population.interval_level is None else 6

    def enterAge(self, widget, text):
        edit = widget.patient._edits["age_years"]
        edit.setText(text)
        edit.editingFinished()

    def nodes(self):
        """What is in the scene; the panel's own nodes are not the subject."""
        import slicer

        own = ("vtkMRMLScriptedModuleNode", "vtkMRMLSubjectHierarchyNode", "vtkMRMLSelectionNode", "vtkMRMLLayoutNode",
               "vtkMRMLSegmentEditorNode")  # fmt: skip
        collection = slicer.mrmlScene.GetNodes()
        nodes = [collection.GetItemAsObject(n) for n in range(collection.GetNumberOfItems())]
        return {(node.GetID(), node.GetName()) for node in nodes if node.GetClassName() not in own}

    # --- Tests

    def test_predict(self):
        import slicer

        from CNNSurvivalLib import bundle
        from CNNSurvivalLib.mrml.results import read_record

        model = bundle.load_bundle(bundle.default_bundle_folder())
        volume, segmentation = self.makeCase()
        steps = []
        result = self.makeLogic().process(
            volume, segmentation, "GTVp", progress=lambda step, fraction: steps.append(fraction)
        )
        survival = slicer.util.arrayFromTableColumn(result.curve, "Survival")
        self.assertEqual(survival[0], 1)
        self.assertTrue(all(before >= after for before, after in zip(survival, survival[1:])))
        self.assertEqual(result.chart.GetNumberOfPlotSeriesNodes(), self.seriesOf(model))
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

    def observers(self, node):
        """How many observers the node has; VTK counts their tags upwards."""
        last = node.AddObserver("ModifiedEvent", lambda caller, event: None)
        node.RemoveObserver(last)
        return sum(node.GetCommand(tag) is not None for tag in range(1, last))

    def modifications(self, widget):
        """How often the parameter node is modified when the user changes one value in the panel."""
        import vtk

        node, count = widget._parameterNode.parameterNode, []
        tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: count.append(event))
        widget.ui.maximumSlicesSpinBox.value -= 1
        node.RemoveObserver(tag)
        return len(count)

    def test_panelIsConnectedOnce(self):
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.enter()
        node = widget._parameterNode.parameterNode
        observers, modifications = self.observers(node), self.modifications(widget)
        self.assertGreater(observers, 1)
        self.assertGreater(modifications, 0)
        for _time in range(20):
            widget.exit()
            widget.enter()
        self.assertEqual(self.observers(node), observers, "after exit and enter")
        self.assertEqual(self.modifications(widget), modifications, "after exit and enter")
        for _time in range(5):
            slicer.mrmlScene.Clear()
            self.makeCase()
            widget.enter()
        self.assertIs(widget._parameterNode.parameterNode, node, "Slicer keeps the node when a scene is closed")
        self.assertEqual(self.observers(node), observers, "after closing the scene")
        self.assertEqual(self.modifications(widget), modifications, "after closing the scene")
        widget.setParameterNode(None)
        self.assertLess(self.observers(node), observers)
        widget.ui.maximumSlicesSpinBox.value = 7
        self.assertNotEqual(widget.logic.getParameterNode().maximumSlices, 7, "not connected")
        widget.enter()
        self.assertEqual(self.observers(node), observers)
        self.assertNotEqual(widget.ui.maximumSlicesSpinBox.value, 7)

    def test_panelFollowsAnotherWrapperOfTheNode(self):
        import CNNSurvival

        widget = self.makeWidget()
        self.makeCase()
        widget.enter()
        second, contours = self.makeCase()
        CNNSurvival.CNNSurvivalParameterNode(widget._parameterNode.parameterNode).volume = second
        self.assertEqual(widget.ui.volumeSelector.currentNode().GetID(), second.GetID())
        self.assertEqual(widget._parameterNode.volume.GetID(), second.GetID())
        self.assertEqual(widget._parameterNode.segmentation.GetID(), contours.GetID(), "the tumour on that CT")

    def test_panelAsksOnceForTheLicence(self):
        import qt
        import slicer

        from CNNSurvivalLib.widgets import licence

        widget = self.makeWidget()
        self.makeCase()
        widget.enter()
        asked, answers = [], [False, True]

        def answer(text, *arguments, **more):
            asked.append(text)
            return answers[len(asked) - 1]

        settings, before = qt.QSettings(), licence.acknowledgedLicences()
        saved = licence.mayAsk, slicer.util.confirmOkCancelDisplay
        licence.mayAsk, slicer.util.confirmOkCancelDisplay = (lambda: True), answer
        try:
            settings.remove(licence.SETTING)
            widget.ui.predictButton.click()
            self.assertTrue(widget.ui.resultCollapsibleButton.isHidden(), "the user did not agree")
            widget.ui.predictButton.click()
            self.assertFalse(widget.ui.resultCollapsibleButton.isHidden())
            widget.ui.predictButton.click()
        finally:
            licence.mayAsk, slicer.util.confirmOkCancelDisplay = saved
            settings.setValue(licence.SETTING, before)
        self.assertEqual(len(asked), 2)
        self.assertIn("CC BY-NC", asked[0])
        self.assertIn("CC BY-NC", widget.ui.modelInfoLabel.text)

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

    def test_panelKeepsItsWidth(self):
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.parent.show()
        try:
            widths = []
            for horizons in ("6, 12", "6, 12, 18, 24, 36", "12", "6, 12, 18"):
                widget.ui.horizonsLineEdit.setText(horizons)
                widget.ui.predictButton.click()
                slicer.app.processEvents()
                widths.append(widget.parent.minimumSizeHint.width())
                widget.parent.resize(widths[-1], 900)
                table = widget.ui.summaryTable
                self.assertLessEqual(table.horizontalHeader().length(), table.viewport().width)
        finally:
            widget.parent.hide()
        self.assertEqual(widths, widths[:1] * len(widths))

    def test_answerComesInOrderAndTheInputsMakeRoom(self):
        import qt
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        ui = widget.ui
        self.assertFalse(ui.inputsCollapsibleButton.collapsed)
        self.assertFalse(widget.tabs.bar.isTabEnabled(3))
        widget.parent.show()
        try:
            ui.predictButton.click()
            slicer.app.processEvents()
            self.assertTrue(ui.inputsCollapsibleButton.collapsed)
            self.assertEqual(ui.inputsCollapsibleButton.text, "CT and tumour: CT, Contours, GTVp")
            parts = (ui.predictButton, ui.sentenceFrame, ui.curveFrame, ui.summaryTable, widget.tabs.bar, ui.slicesTab)
            tops = [part.mapTo(widget.parent, qt.QPoint(0, 0)).y() for part in parts]
            self.assertEqual(tops, sorted(tops))
            for table in (ui.summaryTable, ui.slicesTable):
                rows = sum(table.rowHeight(row) for row in range(table.rowCount))
                self.assertGreaterEqual(table.viewport().height, rows)
            picture = ui.curveFrame.grab().toImage()
            size = (picture.width(), picture.height())
            colors = {picture.pixel(x, y) for x in range(0, size[0], 3) for y in range(0, size[1], 3)}
            self.assertGreater(len(colors), 10, "a curve is drawn")
            for index in range(widget.tabs.bar.count):
                self.assertTrue(widget.tabs.bar.isTabEnabled(index))
                widget.tabs.bar.currentIndex = index
                shown = [page.isVisible() for page in (ui.slicesTab, ui.explainTab, ui.compareTab, ui.exportTab,
                                                       ui.batchTab, ui.modelTab)]  # fmt: skip
                self.assertEqual(shown, [page == index for page in range(6)])
        finally:
            widget.tabs.bar.currentIndex = 0
            widget.parent.hide()
        ui.segmentSelector.setCurrentSegmentID("Lung")
        self.assertFalse(ui.inputsCollapsibleButton.collapsed, "there is something to choose again")
        self.assertFalse(widget.tabs.bar.isTabEnabled(3))

    def test_tableOfTheAnswer(self):
        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        table, p = widget.ui.summaryTable, widget._prediction()
        self.assertEqual(table.rowCount, len(p.horizons_months))
        for row, (months, survival) in enumerate(zip(p.horizons_months, p.horizon_survival)):
            self.assertEqual(table.item(row, 0).text(), f"{months} months")
            self.assertEqual(table.item(row, 1).text(), f"{survival:.0%}")
        self.assertIn("Median survival", widget.ui.factsLabel.text)
        self.assertIn(" cc, largest slice", widget.ui.factsLabel.text)
        self.assertEqual(widget.result.curve.accessibleDescription, widget.ui.sentenceLabel.text)

    def test_layoutChangesOnlyOnTheClickAndComesBack(self):
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is None:  # without a window
            layout = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
            for kind in (layout.SlicerLayoutConventionalView, layout.SlicerLayoutConventionalPlotView):
                layout.AddLayoutDescription(kind, "<layout/>")
        before = layout.GetViewArrangement()
        layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
        text = widget.ui.showChartButton.text
        widget.ui.predictButton.click()
        self.assertEqual(layout.GetViewArrangement(), layout.SlicerLayoutConventionalView)
        widget.ui.showChartButton.click()
        self.assertEqual(layout.GetViewArrangement(), layout.SlicerLayoutConventionalPlotView)
        self.assertNotEqual(widget.ui.showChartButton.text, text)
        widget.ui.showChartButton.click()
        self.assertEqual(layout.GetViewArrangement(), layout.SlicerLayoutConventionalView)
        self.assertEqual(widget.ui.showChartButton.text, text)
        layout.SetViewArrangement(before)

    def test_risksAreBarsWithTheirNumbers(self):
        import slicer

        widget = self.makeWidget()
        self.makeCase()
        widget.initializeParameterNode()
        widget.parent.show()
        try:
            widget.ui.predictButton.click()
            slicer.app.processEvents()
            table, p = widget.ui.slicesTable, widget._prediction()
            last = table.columnCount - 1
            for row, risk in enumerate(p.slice_risk):
                self.assertEqual(table.item(row, last).text(), f"{risk:.0%}")
                brush = table.item(row, last).background()
                (start, _), (end, _), (after, rest) = brush.gradient().stops()
                self.assertEqual((start, rest.alpha()), (0, 0))
                self.assertAlmostEqual(end, risk, delta=0.01)
                self.assertEqual(brush.gradient().finalStop().x(), table.columnWidth(last))
        finally:
            widget.parent.hide()

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

    def test_changesOfOtherSegmentsAndSettings(self):
        import numpy as np
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)  # one labelmap, as Slicer draws them
        widget.initializeParameterNode()
        widget.ui.predictButton.click()
        lung = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Lung", volume)
        lung[12:] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(lung.astype(np.uint8), segmentation, "Lung", volume)
        widget.enter()
        self.assertTrue(widget.ui.staleLabel.isHidden(), "another segment was drawn in")
        before = widget.ui.maximumSlicesSpinBox.value
        widget.ui.maximumSlicesSpinBox.value = 2
        self.assertIn(f"Made with at most {before} slices; chosen are 2.", widget.ui.staleLabel.text)
        self.assertFalse(widget.ui.staleLabel.isHidden())
        widget.ui.maximumSlicesSpinBox.value = before
        self.assertTrue(widget.ui.staleLabel.isHidden())
        widget.ui.minimumRoiSpinBox.value += 10
        self.assertIn("minimum ROI area", widget.ui.staleLabel.text)

    def test_staleMarkAndEditorComeBackWithTheScene(self):
        import os
        import tempfile

        import numpy as np
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        with self.openTumour(widget) as tumour:
            widget.initializeParameterNode()
            widget.ui.predictButton.click()
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "GTVp", volume)
            mask[12:] = 0
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, "GTVp", volume)
            with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
                path = os.path.join(folder, "scene.mrb")
                self.assertTrue(slicer.util.saveScene(path))
                slicer.mrmlScene.Clear()
                widget.enter()
                self.assertIsNone(tumour.editor.segmentationNode())
                slicer.util.loadScene(path)
                slicer.app.processEvents()
            self.assertIn("The segment has changed since.", widget.ui.staleLabel.text)
            self.assertFalse(widget.ui.staleLabel.isHidden())
            p = widget._parameterNode
            self.assertEqual(tumour.editor.segmentationNodeID(), p.segmentation.GetID())
            self.assertEqual(tumour.editor.sourceVolumeNodeID(), p.volume.GetID())
            self.assertEqual(tumour.editor.currentSegmentID(), "GTVp")
            widget.ui.predictButton.click()
            self.assertTrue(widget.ui.staleLabel.isHidden())

    def test_anotherCtDoesNotTakeTheTumour(self):
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        if slicer.util.mainWindow():
            slicer.util.selectModule("CNNSurvival")  # the views follow only while the panel is shown
        widget.enter()
        try:
            widget.ui.predictButton.click()
            followUp = self.makeCt()
            followUp.SetName("Follow-up")
            slicer.app.processEvents()
            self.assertIs(widget._parameterNode.segmentation, segmentation)
            widget._parameterNode.volume = followUp
            self.assertIsNone(widget._parameterNode.segmentation)
            self.assertFalse(widget.ui.predictButton.enabled)
            self.assertIn("draw a new tumour", widget.ui.missingLabel.text)
            self.assertFalse(widget.ui.missingLabel.isHidden())
            self.assertTrue(widget.ui.sampleButton.isHidden())
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                self.assertEqual(view.GetBackgroundVolumeID(), followUp.GetID())
            widget.enter()
            self.assertIsNone(widget._parameterNode.segmentation)
            widget._parameterNode.segmentation, widget._parameterNode.segmentId = segmentation, "GTVp"
            widget.ui.predictButton.click()
            self.assertIn("was drawn on 'CT', not on 'Follow-up'", widget.ui.warningsLabel.text)
            widget._parameterNode.volume = None
            self.assertTrue(widget.ui.sampleButton.isHidden(), "there are CTs to choose")
            widget._parameterNode.volume = volume
        finally:
            widget.exit()
            if slicer.util.mainWindow():
                slicer.util.selectModule("Data")

    def test_statusIsNotOfTheFormerInputs(self):
        widget = self.makeWidget()
        _volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        segmentation.GetSegmentation().AddEmptySegment("Empty", "Empty")
        widget.ui.segmentSelector.setCurrentSegmentID("Empty")
        widget.ui.predictButton.click()
        self.assertIn("is empty", widget.ui.statusLabel.text)
        widget.ui.segmentSelector.setCurrentSegmentID("GTVp")
        self.assertEqual(widget.ui.statusLabel.text, "")
        widget.ui.predictButton.click()
        table = widget.ui.slicesTable
        import qt

        for row in range(table.rowCount):
            table.item(row, 0).setCheckState(qt.Qt.Unchecked)
        self.assertIn("at least one slice", widget.ui.statusLabel.text)
        self.assertEqual(sum(widget._prediction().used), 1)

    def test_drawingInAnotherSegmentIsSaid(self):
        widget = self.makeWidget()
        _volume, segmentation = self.makeCase()
        with self.openTumour(widget) as tumour:
            widget.initializeParameterNode()
            self.assertTrue(tumour.box.otherFrame.isHidden())
            segmentation.GetSegmentation().AddEmptySegment("New", "New")
            tumour.editor.setCurrentSegmentID("New")
            self.assertFalse(tumour.box.otherFrame.isHidden())
            self.assertEqual(tumour.box.otherLabel.text, "You draw in 'New'; Predict survival uses 'GTVp'.")
            self.assertEqual(widget._parameterNode.segmentId, "GTVp")
            tumour.box.useButton.click()
            self.assertEqual(widget._parameterNode.segmentId, "New")
            self.assertTrue(tumour.box.otherFrame.isHidden())
            self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "New")

    def test_theMapLeavesTheViewsWithItsResult(self):
        import numpy as np
        import slicer

        from CNNSurvivalLib.mrml.explanation import write_explanation

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        pet = self.makeCt()
        pet.SetName("PET")
        widget.enter()
        try:
            if not slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
            view = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
            slicer.util.setSliceViewerLayers(foreground=pet, foregroundOpacity=0.3)
            widget._parameterNode.volume, widget._parameterNode.segmentation = volume, segmentation
            widget._parameterNode.segmentId = "GTVp"
            widget.ui.predictButton.click()
            values = np.ones(slicer.util.arrayFromVolume(volume).shape)
            node = write_explanation(slicer.mrmlScene, volume, values, widget._result(), "All raises it.")
            widget.initializeParameterNode()
            box = widget.ui.showExplanationCheckBox
            self.assertEqual((box.enabled, box.checked), (True, False))
            box.checked = True
            self.assertEqual(view.GetForegroundVolumeID(), node.GetID())
            self.assertEqual(widget.ui.explanationLabel.text, "All raises it.")
            view.SetForegroundVolumeID(None)
            for other in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                other.SetForegroundVolumeID(None)
            widget.initializeParameterNode()
            self.assertFalse(box.checked, "the user took it out of the views")
            slicer.util.setSliceViewerLayers(foreground=pet, foregroundOpacity=0.3)
            box.checked = True
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "GTVp", volume)
            mask[12:] = 0
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, "GTVp", volume)
            widget.enter()
            self.assertIn("out of date", widget.ui.explanationLabel.text)
            self.assertEqual(view.GetForegroundVolumeID(), node.GetID())
            widget.ui.explainButton.click()
            self.assertIn("out of date", widget.ui.explanationLabel.text, "a new map of an old result is no newer")
            widget.ui.predictButton.click()
            self.assertEqual(view.GetForegroundVolumeID(), pet.GetID(), "the foreground from before")
            self.assertAlmostEqual(view.GetForegroundOpacity(), 0.3)
            self.assertEqual((box.enabled, box.checked), (False, False))
        finally:
            widget.exit()

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
        if not slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):  # without a window
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
        widget._parameterNode.modelId = "nsclc-zhang2020-1.0"
        widget.ui.maximumSlicesSpinBox.value = 2
        widget.ui.predictButton.click()
        widget.ui.explainButton.click()
        self.assertIn("percentage points", widget.ui.explanationLabel.text)
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
            below = os.path.join(folder, "CT_GTVp")
            found = {name: os.path.getsize(os.path.join(below, name)) for name in os.listdir(below)}
            widget.ui.sceneCheckBox.checked = False
            widget.ui.exportButton.click()
            self.assertEqual(set(os.listdir(folder)), {"CT_GTVp", "CT_GTVp-2"}, "nothing is overwritten")
        self.assertIn("Written to", widget.ui.statusLabel.text)
        expected = {"report.pdf", "survival_curve.png", "survival_curve.csv", "horizons.csv", "slices.csv",
                    "prediction.json", "scene.mrb"}  # fmt: skip
        self.assertEqual(set(found), expected)
        self.assertGreater(min(found.values()), 100)
        self.assertGreater(found["survival_curve.png"], 10000)

    def writeDicom(self, volume, folder):
        """The CT as DICOM files of a made-up patient, in the patient's place."""
        import os

        import pydicom
        import slicer
        from pydicom.uid import CTImageStorage, generate_uid

        from CNNSurvivalLib.report.dicom.instance import encoded

        hu = slicer.util.arrayFromVolume(volume)
        study, series, frame = (generate_uid() for _number in range(3))
        for k, plane in enumerate(hu):
            ct = pydicom.Dataset()
            ct.SOPClassUID, ct.SOPInstanceUID = CTImageStorage, generate_uid()
            ct.StudyInstanceUID, ct.SeriesInstanceUID, ct.FrameOfReferenceUID = study, series, frame
            ct.PatientName, ct.PatientID, ct.PatientSex, ct.PatientBirthDate = "Test^Anna", "T-1", "F", "19500203"
            ct.StudyDate, ct.StudyTime, ct.StudyID, ct.AccessionNumber = "20200102", "101500", "7", "A7"
            ct.Modality, ct.SeriesNumber, ct.InstanceNumber, ct.SeriesDescription = "CT", 2, k + 1, "Chest"
            ct.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            ct.ImagePositionPatient, ct.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
            ct.PixelSpacing, ct.SliceThickness = [1, 1], 3
            ct.Rows, ct.Columns = plane.shape
            ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
            ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 16, 15, 1
            ct.RescaleIntercept, ct.RescaleSlope, ct.PixelData = 0, 1, plane.astype("<i2").tobytes()
            with open(os.path.join(folder, f"{k:03d}.dcm"), "wb") as stream:
                stream.write(encoded(ct))
        return study, series

    def loadDicom(self, database, series, made):
        """The CT of a series of the database. A Slicer built without its DICOM reader gets the CT that was written."""
        import slicer
        from DICOMLib import DICOMUtils

        found = DICOMUtils.loadSeriesByUID([series])
        if found:
            slicer.mrmlScene.RemoveNode(made)
            return slicer.mrmlScene.GetNodeByID(found[0])
        uids = sorted(database.instancesForSeries(series), key=lambda uid: database.fileForInstance(uid))
        made.SetAttribute("DICOM.instanceUIDs", " ".join(uids))  # as Slicer's plugin sets it
        return made

    def test_exportDicomIntoTheDatabase(self):
        import os
        import tempfile

        import slicer
        from DICOMLib import DICOMUtils

        widget = self.makeWidget()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            source, output, place = (os.path.join(folder, name) for name in ("ct", "out", "database"))
            for each in (source, output, place):
                os.mkdir(each)
            made, segmentation = self.makeCase()
            study, series = self.writeDicom(made, source)
            widget.initializeParameterNode()
            widget.ui.predictButton.click()
            self.assertFalse(widget.ui.dicomCheckBox.enabled)
            self.assertIn("not loaded from DICOM", widget.ui.dicomCheckBox.text)
            with DICOMUtils.TemporaryDICOMDatabase(place) as database:
                DICOMUtils.importDicom(source, database)
                volume = self.loadDicom(database, series, made)
                widget._parameterNode.volume = volume
                widget._parameterNode.segmentation, widget._parameterNode.segmentId = segmentation, "GTVp"
                widget.ui.predictButton.click()
                widget.ui.exportDirectoryButton.directory = output
                self.assertTrue(widget.ui.dicomCheckBox.enabled)
                widget.ui.dicomCheckBox.checked = True
                self.assertTrue(widget.ui.dicomDatabaseCheckBox.enabled)
                widget.ui.exportButton.click()
                widget.ui.dicomCheckBox.checked = False
                self.assertIn("report.dcm", widget.ui.statusLabel.text)
                below = os.path.join(output, os.listdir(output)[0], "dicom")
                found = database.seriesForStudy(study)
                modalities = sorted(
                    database.instanceValue(database.instancesForSeries(uid)[0], "0008,0060") for uid in found
                )
                names = {database.instanceValue(database.instancesForSeries(uid)[0], "0010,0010") for uid in found}
                self.assertEqual(len(found), 1 + len(os.listdir(below)))
                self.assertEqual(names, {"Test^Anna"})
                for modality in ("CT", "DOC", "OT"):
                    self.assertIn(modality, modalities)

                def fail():
                    raise ValueError("the disk is full")

                other = os.path.join(folder, "other")
                shown = (widget.export._inputs()[1], widget.export._prediction())
                with self.assertRaises(ValueError):
                    widget.logic.exportDicom(volume, *shown, other, database=True, others=fail)
                self.assertFalse(os.path.exists(other))
                self.assertEqual(len(database.seriesForStudy(study)), len(found))
            slicer.mrmlScene.Clear()

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
            self.assertEqual(set(os.listdir(folder)), {"predictions.csv", "curves.csv", "failures.csv"})
        self.assertIn("1 of 2 cases predicted", widget.ui.statusLabel.text)
        self.assertEqual(widget.ui.batchTable.rowCount, 2)
        self.assertEqual(widget.ui.batchTable.item(0, 0).text(), "CT")
        self.assertIn("No segment", widget.ui.batchTable.item(1, 4).text())
        self.assertEqual(widget.ui.batchTable.item(0, 3).text(), "inside")
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
        self.assertTrue(widget.ui.inputsCollapsibleButton.collapsed, "the answer has room, as when the scene was saved")
        self.assertEqual(widget.ui.volumeSelector.currentNode().GetName(), "CT")
        widget.enter()
        self.assertEqual(widget.ui.volumeSelector.currentNode().GetName(), "CT")
        self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "GTVp")
        self.assertEqual(widget.ui.maximumSlicesSpinBox.value, 3)
        self.assertEqual(widget.ui.sentenceLabel.text, sentence)
        self.assertEqual(list(widget._prediction().used), [True, False, True])
        self.assertEqual(widget.ui.slicesTable.rowCount, 3)
        series = self.seriesOf(widget.models.bundle)
        self.assertEqual(widget._result().chart.GetNumberOfPlotSeriesNodes(), series)

    # --- Populations and what is known of the patient

    def test_panelAsksForThePopulation(self):
        import tempfile

        import slicer

        widget = self.makeWidget()
        self.makeCase()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            with self.withPopulations(widget, folder):
                combo = widget.ui.populationComboBox
                self.assertEqual([combo.itemText(n) for n in range(combo.count)],
                                 ["Patients from here", "Patients from there"])  # fmt: skip
                self.assertEqual(widget._parameterNode.population, "here")
                self.assertIn("Reference cohort", combo.toolTip)
                self.assertEqual(set(widget.patient._edits), {"age_years", "n_stage"})
                widget.ui.predictButton.click()
                self.assertTrue(widget.ui.sentenceLabel.text.startswith("Patients from here: the model expects"))
                self.assertTrue(widget.ui.staleLabel.isHidden())
                here = self.curve(widget)
                combo.setCurrentIndex(1)
                self.assertEqual(widget._parameterNode.population, "there")
                self.assertEqual(set(widget.patient._edits), {"n_stage"})
                self.assertEqual(
                    widget.ui.staleLabel.text,
                    "Made for 'Patients from here'; chosen is 'Patients from there'. Predict again.",
                )
                self.assertFalse(widget.ui.staleLabel.isHidden())
                self.assertEqual(self.curve(widget), here)
                widget.ui.predictButton.click()
                self.assertTrue(widget.ui.staleLabel.isHidden())
                self.assertTrue(widget.ui.sentenceLabel.text.startswith("Patients from there: "))
                self.assertTrue(all(a < b for a, b in zip(self.curve(widget)[1:], here[1:])))
                widget._parameterNode.population = ""
                widget.initializeParameterNode()
                self.assertEqual(widget._parameterNode.population, "there", "remembered in the settings")

    def test_panelTakesWhatIsKnownOfThePatient(self):
        import tempfile

        import slicer

        widget = self.makeWidget()
        volume, _segmentation = self.makeCase()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            with self.withPopulations(widget, folder):
                self.assertFalse(widget.ui.patientCollapsibleButton.isHidden())
                widget.ui.predictButton.click()
                image, nodes = self.curve(widget), self.nodes()
                self.enterAge(widget, "80")
                older = self.curve(widget)
                self.assertTrue(all(a < b for a, b in zip(older[1:], image[1:])))
                self.assertIn("age 80 years", widget.ui.sentenceLabel.text)
                table, risks = widget.ui.slicesTable, widget._prediction().slice_risk
                self.assertEqual([table.item(row, table.columnCount - 1).text() for row in range(table.rowCount)],
                                 [f"{risk:.0%}" for risk in risks])  # fmt: skip
                widget.patient._edits["n_stage"].setCurrentIndex(3)
                self.assertIn("N stage N2", widget.ui.sentenceLabel.text)
                widget.patient._edits["n_stage"].setCurrentIndex(0)
                self.assertEqual(self.curve(widget), older)
                self.enterAge(widget, "7")
                self.assertIn("The age '7' is not a number from 18 to 110", widget.ui.statusLabel.text)
                self.assertEqual(widget.patient._edits["age_years"].text, "80")
                widget.patient._edits["age_years"].clear()
                self.assertEqual(self.curve(widget), image)
                self.assertEqual(widget.patient.values, {})
                self.assertEqual({node_id for node_id, _name in self.nodes()}, {node_id for node_id, _name in nodes})
                self.enterAge(widget, "66")
                widget.ui.predictButton.click()
                self.assertIn("age 66 years", widget.ui.sentenceLabel.text)
                for edit in widget.patient._edits.values():
                    self.assertTrue(edit.toolTip)
                second, _organs = self.makeCase()
                widget._parameterNode.volume = second
                self.assertEqual(widget.patient.values, {}, "another CT is another patient")
                widget._parameterNode.volume = volume

    def test_panelTakesTheAgeFromDicom(self):
        import tempfile

        import slicer

        from CNNSurvivalLib.widgets import patient_box

        widget = self.makeWidget()
        before, patient_box.patient_age = patient_box.patient_age, lambda volume, database: "71" if volume else None
        try:
            self.makeCase()
            with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
                with self.withPopulations(widget, folder):
                    self.assertEqual(widget.patient.values, {"age_years": "71"})
                    self.assertEqual(widget.patient._edits["age_years"].text, "71")
                    self.assertIn("DICOM", widget.ui.patientLabel.text)
                    widget.patient._edits["age_years"].clear()
                    self.assertNotIn("DICOM", widget.ui.patientLabel.text)
                    widget.ui.predictButton.click()
                    self.assertNotIn("71 years", widget.ui.sentenceLabel.text)
        finally:
            patient_box.patient_age = before

    def test_panelMarksWhatLiesOutside(self):
        import tempfile

        import slicer

        widget = self.makeWidget()
        self.makeCase()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            with self.withPopulations(widget, folder):
                widget.ui.predictButton.click()
                self.assertTrue(widget.ui.outsideIconLabel.isHidden())
                self.assertEqual(widget.ui.sentenceFrame.styleSheet, "")
                self.assertTrue(widget.ui.warningsFrame.isHidden())
                chart, curve = widget._result().chart, widget._result().survival_series
                self.assertEqual(chart.GetNumberOfPlotSeriesNodes(), 6)
                self.enterAge(widget, "95")
                self.assertFalse(widget.ui.outsideIconLabel.isHidden())
                self.assertIn("border", widget.ui.sentenceFrame.styleSheet)
                self.assertFalse(widget.ui.warningsFrame.isHidden())
                self.assertFalse(widget.ui.warningsIconLabel.pixmap.isNull())
                self.assertIn("95 years", widget.ui.warningsLabel.text)
                self.assertIn("OUTSIDE", widget.ui.sentenceLabel.text)
                self.assertIn("outside what the model learned from", chart.GetTitle())
                self.assertEqual(curve.GetLineStyle(), curve.GetLineStyleFromString("dash"))
                self.enterAge(widget, "60")
                self.assertTrue(widget.ui.outsideIconLabel.isHidden())
                self.assertEqual(curve.GetLineStyle(), curve.GetLineStyleFromString("solid"))

    def test_sceneBringsThePatientBack(self):
        import os
        import tempfile

        import slicer

        widget = self.makeWidget()
        self.makeCase()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            with self.withPopulations(widget, os.path.join(folder, "model")):
                self.enterAge(widget, "80")
                widget.ui.predictButton.click()
                sentence, curve = widget.ui.sentenceLabel.text, self.curve(widget)
                path = os.path.join(folder, "scene.mrb")
                self.assertTrue(slicer.util.saveScene(path))
                slicer.mrmlScene.Clear()
                widget.initializeParameterNode()
                self.assertEqual(widget.patient.values, {})
                slicer.util.loadScene(path)
                widget.initializeParameterNode()
                self.assertEqual(widget.ui.sentenceLabel.text, sentence)
                self.assertEqual(widget.patient.values, {"age_years": "80"})
                self.assertEqual(widget._parameterNode.population, "here")
                self.assertTrue(widget.ui.staleLabel.isHidden())
                self.assertEqual(self.curve(widget), curve)
                widget.patient._edits["age_years"].clear()
                self.assertNotEqual(self.curve(widget), curve)
                slicer.mrmlScene.Clear()

    def test_anImageThatIsNoCtHasToBeForced(self):
        import slicer

        widget = self.makeWidget()
        volume, _segmentation = self.makeCase()
        slicer.util.arrayFromVolume(volume)[:] += 1000
        slicer.util.arrayFromVolumeModified(volume)
        widget.initializeParameterNode()
        self.assertFalse(widget.ui.forceCheckBox.checked)
        widget.ui.predictButton.click()
        self.assertIn("do not look like Hounsfield units", widget.ui.statusLabel.text)
        self.assertNotIn("--force", widget.ui.statusLabel.text)
        self.assertTrue(widget.ui.resultCollapsibleButton.isHidden())
        widget.ui.forceCheckBox.checked = True
        widget.ui.predictButton.click()
        self.assertIn("do not look like Hounsfield units", widget.ui.warningsLabel.text)
        second, _organs = self.makeCase()
        widget._parameterNode.volume = second
        self.assertFalse(widget.ui.forceCheckBox.checked, "it was meant for the other image")

    # --- Draw the tumour

    def openTumour(self, widget):
        """The panel as it is shown, with the box Tumour open; a context: left and closed afterwards."""
        import contextlib

        @contextlib.contextmanager
        def context():
            widget.enter()
            try:
                widget.tumour.widget.collapsed = False
                yield widget.tumour
            finally:
                widget.exit()
                widget.tumour.widget.collapsed = True
                widget.initializeParameterNode()

        return context()

    def makeCt(self):
        """The CT of makeCase, without its segmentation."""
        import slicer

        volume, segmentation = self.makeCase()
        slicer.mrmlScene.RemoveNode(segmentation)
        return volume

    def effect(self):
        """An effect that listens to the views; Paint crashes Slicer 5.8 where there are none (--no-main-window)."""
        import slicer

        return "Paint" if slicer.app.layoutManager() else "Islands"

    def threshold(self, editor, low, high):
        """Draw what lies between the two HU, as a user does with the effect Threshold."""
        editor.setActiveEffectByName("Threshold")
        effect = editor.activeEffect()
        effect.setParameter("MinimumThreshold", str(low))
        effect.setParameter("MaximumThreshold", str(high))
        effect.self().onApply()

    def drawn(self, widget):
        """The volume of what is drawn, in voxels."""
        import slicer

        p = widget._parameterNode
        return int((slicer.util.arrayFromSegmentBinaryLabelmap(p.segmentation, p.segmentId, p.volume) > 0).sum())

    def test_newTumourIsDrawnAndPredicted(self):
        import slicer

        widget = self.makeWidget()
        with self.openTumour(widget) as tumour:
            self.assertFalse(tumour.box.newTumourButton.enabled)
            volume = self.makeCt()
            widget.initializeParameterNode()
            self.assertIn("draw a new tumour", widget.ui.missingLabel.text)
            self.assertFalse(widget.ui.predictButton.enabled)
            tumour.box.newTumourButton.click()
            tumour.box.newTumourButton.click()  # nothing is drawn yet, so no other is made
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 1)
            segmentation = widget._parameterNode.segmentation
            self.assertEqual(widget.ui.segmentSelector.currentNodeID(), segmentation.GetID())
            self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), "Tumour")
            self.assertTrue(widget.ui.missingLabel.isHidden())
            self.assertTrue(widget.ui.inputsCollapsibleButton.collapsed, "room for the editor")
            self.assertEqual(tumour.editor.segmentationNodeID(), segmentation.GetID())
            self.assertEqual(tumour.editor.sourceVolumeNodeID(), volume.GetID())
            self.assertEqual(tumour.editor.currentSegmentID(), "Tumour")
            self.assertTrue(widget.ui.predictButton.enabled)

            self.threshold(tumour.editor, -100, 200)
            drawn = self.drawn(widget)
            self.assertGreater(drawn, 5000)
            widget.ui.predictButton.click()
            self.assertIn("18 months", widget.ui.sentenceLabel.text)
            self.assertTrue(widget.ui.staleLabel.isHidden())
            curve, volume_cc = self.curve(widget), widget._prediction().volume_cc
            self.assertAlmostEqual(volume_cc, drawn * 3 / 1000, places=3)

            self.threshold(tumour.editor, 40, 200)  # less of it
            self.assertLess(self.drawn(widget), drawn)
            self.assertFalse(widget.ui.staleLabel.isHidden(), "stale as soon as it is drawn")
            self.assertEqual(self.curve(widget), curve)
            widget.ui.predictButton.click()
            self.assertTrue(widget.ui.staleLabel.isHidden())
            self.assertLess(widget._prediction().volume_cc, volume_cc)
            self.assertNotEqual(self.curve(widget), curve)

            tumour.editor.undo()
            self.assertEqual(self.drawn(widget), drawn)
            self.assertFalse(widget.ui.staleLabel.isHidden(), "stale as soon as it is undone")
            tumour.editor.redo()
            self.assertTrue(widget.ui.staleLabel.isHidden(), "the result is of this segment again")
            tumour.editor.undo()
            widget.ui.predictButton.click()
            self.assertEqual(self.curve(widget), curve)
            tumour.editor.redo()
            self.assertLess(self.drawn(widget), drawn)

    def test_terminologyIsOfSlicersList(self):
        import slicer

        from CNNSurvivalLib.mrml.tumour import NEOPLASM_PRIMARY

        entry = slicer.vtkSlicerTerminologyEntry()
        self.assertTrue(slicer.modules.terminologies.logic().DeserializeTerminologyEntry(NEOPLASM_PRIMARY, entry))
        self.assertEqual(entry.GetTypeObject().GetCodeMeaning(), "Neoplasm, Primary")

    def test_editorFollowsTheInputsAndLetsGo(self):
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        tumour = widget.tumour
        with self.openTumour(widget):
            editor = tumour.editor
            self.assertEqual(editor.currentSegmentID(), "GTVp")
            widget.ui.segmentSelector.setCurrentSegmentID("Lung")
            self.assertEqual(editor.currentSegmentID(), "Lung")
            second, organs = self.makeCase()
            widget._parameterNode.volume = second
            self.assertEqual(editor.segmentationNodeID(), organs.GetID())
            self.assertEqual(editor.sourceVolumeNodeID(), second.GetID())
            self.assertEqual(editor.currentSegmentID(), "GTVp")
            editor.setActiveEffectByName(self.effect())
            self.assertEqual(editor.activeEffect().name, self.effect())
            widget.exit()
            self.assertIsNone(editor.activeEffect(), "leaving puts the effect off")
            widget.enter()
            self.assertIs(tumour.editor, editor, "made once")
            editor.setActiveEffectByName(self.effect())
            tumour.widget.collapsed = True
            self.assertIsNone(editor.activeEffect(), "so does closing the box")
            tumour.widget.collapsed = False
            editor.setActiveEffectByName(self.effect())
            slicer.mrmlScene.Clear()
            self.assertIsNone(editor.segmentationNode())
            self.assertIsNone(editor.sourceVolumeNode())
            widget.enter()
            volume, segmentation = self.makeCase()
            widget.initializeParameterNode()
            self.assertEqual(editor.segmentationNodeID(), segmentation.GetID())
            self.assertEqual(editor.currentSegmentID(), "GTVp")

    def test_comingAndGoingLeavesNoObservers(self):
        import slicer

        widget = self.makeWidget()
        _volume, segmentation = self.makeCase()
        widget.initializeParameterNode()
        tumour, told = widget.tumour, []
        onDrawn, tumour._onDrawn = tumour._onDrawn, lambda: told.append(1)

        def heard():
            """How often the box is told of one change, and how many observers the view of the red slice has."""
            told.clear()
            segmentation.GetSegmentation().GetSegment("GTVp").GetRepresentation("Binary labelmap").Modified()
            manager = slicer.app.layoutManager()
            view = str(manager.sliceWidget("Red").sliceView().interactor()) if manager else ""
            return len(told), view.count("Command:")

        try:
            with self.openTumour(widget):
                atRest = heard()
                self.assertEqual(atRest[0], 1)
                tumour.editor.setActiveEffectByName(self.effect())
                atWork = heard()
                if slicer.app.layoutManager():
                    self.assertGreater(atWork[1], atRest[1])
                for _ in range(20):
                    widget.exit()
                    times, observers = heard()
                    self.assertLessEqual(times, 1)
                    self.assertEqual(observers, atRest[1])
                    widget.enter()
                    tumour.editor.setActiveEffectByName(self.effect())
                self.assertEqual(heard(), atWork)
        finally:
            tumour._onDrawn = onDrawn

    def test_severalLesionsInOneSegment(self):
        import numpy as np
        import slicer

        widget = self.makeWidget()
        volume, segmentation = self.makeCase()
        k, j, i = np.indices((24, 100, 110))
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "GTVp", volume)
        mask |= (3 * (k - 12)) ** 2 + (j - 50) ** 2 + (i - 95) ** 2 < 10**2
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, "GTVp", volume)
        widget.initializeParameterNode()
        combo = widget.tumour.box.lesionsComboBox
        self.assertEqual(combo.currentIndex, 0)
        widget.ui.predictButton.click()
        self.assertIn("2 separate lesions", widget.ui.warningsLabel.text)
        self.assertIn("all were taken", widget.ui.warningsLabel.text)
        both = self.curve(widget)
        combo.setCurrentIndex(1)
        self.assertEqual(widget._parameterNode.lesions, "largest")
        self.assertEqual(widget.ui.staleLabel.text, "Made of all lesions; chosen is the largest one. Predict again.")
        widget.ui.predictButton.click()
        self.assertTrue(widget.ui.staleLabel.isHidden())
        self.assertIn("only the largest was taken", widget.ui.warningsLabel.text)
        self.assertNotEqual(self.curve(widget), both)
        combo.setCurrentIndex(0)
        self.assertFalse(widget.ui.staleLabel.isHidden())

    def test_rightClickInTheDataModule(self):
        import slicer
        import vtk

        widget = slicer.modules.cnnsurvival.widgetRepresentation().self()  # the panel that the action opens
        _first, organs = self.makeCase()
        second, contours = self.makeCase()
        label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Label")
        widget.initializeParameterNode()
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        plugin = slicer.CNNSurvivalSubjectHierarchyPlugin
        segments = vtk.vtkIdList()
        hierarchy.GetItemChildren(hierarchy.GetItemByDataNode(contours), segments)

        def shown(item):
            plugin.showContextMenuActionsForItem(item)
            return plugin.predictAction.visible

        self.assertIn(plugin.predictAction, plugin.itemContextMenuActions())
        self.assertFalse(shown(hierarchy.GetItemByDataNode(label)))
        self.assertFalse(shown(hierarchy.GetSceneItemID()))
        items = {
            hierarchy.GetItemByDataNode(organs): (organs, "GTVp"),
            hierarchy.GetItemByDataNode(second): (contours, "GTVp"),
            segments.GetId(0): (contours, "Lung"),
            hierarchy.GetItemByDataNode(contours): (contours, "GTVp"),
        }
        for item, (segmentation, segmentId) in items.items():
            self.assertTrue(shown(item))
            handler.setCurrentItem(item)
            plugin.predictAction.trigger()
            widget.initializeParameterNode()
            self.assertEqual(widget._parameterNode.segmentation.GetID(), segmentation.GetID())
            self.assertEqual(widget.ui.segmentSelector.currentSegmentID(), segmentId)
            self.assertEqual(widget._parameterNode.volume, _first if segmentation is organs else second)
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(second), "DICOM.Modality", "MR")
        self.assertFalse(shown(hierarchy.GetItemByDataNode(second)))
