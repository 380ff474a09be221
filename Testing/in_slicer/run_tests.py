"""The module's own tests, and its numbers against the command line's, in an installed Slicer without a window.

    make test-slicer SLICER=/path/to/Slicer

Ends Slicer with exit code 0 if everything passed. What `cnn-survival predict` says of the sample case is in
expected.json beside this file, which `python Testing/in_slicer/make_expected.py` writes.
"""

import json
import os
import sys
import tempfile
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(globals().get("__file__") or sys.argv[0]))
MODULE = os.path.join(HERE, "..", "..", "CNNSurvival")
TOLERANCE = 1e-6


class Numbers(unittest.TestCase):
    """The same CT and contour give the same survival in Slicer and on the command line."""

    def test_sample_case(self):
        import slicer

        import CNNSurvival
        from CNNSurvivalLib.mrml.results import read_record

        slicer.mrmlScene.Clear()
        logic = CNNSurvival.CNNSurvivalLogic()
        volume, segmentation = logic.loadSample()
        record = read_record(logic.process(volume, segmentation, "Tumour"))
        with open(os.path.join(HERE, "expected.json"), encoding="utf-8") as stream:
            expected = json.load(stream)
        self.assertEqual(record["provenance"]["model_weights_sha256"], expected["model_weights_sha256"])
        self.assertAlmostEqual(record["risk"], expected["risk"], delta=TOLERANCE)
        for found, wanted in zip(record["curve"], expected["curve"]):
            self.assertAlmostEqual(found["survival"], wanted, delta=TOLERANCE)

    def test_headless_batch(self):
        import slicer

        sys.path.insert(0, os.path.abspath(MODULE))
        from CNNSurvivalLib import errors, headless

        try:
            import SimpleITK
        except ImportError:
            self.skipTest("this Slicer was built without SimpleITK, which reads the files")
        from CNNSurvivalLib.mrml import sample

        hu, tumour, _lung = sample.chest_ct()
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            for name, array in (("ct", hu), ("mask", tumour)):
                image = SimpleITK.GetImageFromArray(array)
                image.SetSpacing(sample.SPACING_MM[::-1])
                SimpleITK.WriteImage(image, os.path.join(folder, name + ".nrrd"))
            manifest = os.path.join(folder, "cases.csv")
            with open(manifest, "w", encoding="utf-8") as stream:
                stream.write("patient_id,image,mask\nsample,ct.nrrd,mask.nrrd\nlost,ct.nrrd,nowhere.nrrd\n")
            output = os.path.join(folder, "out")
            self.assertEqual(headless.main(["--manifest", manifest, "--output", output]), errors.SOME_FAILED)
            self.assertEqual(set(os.listdir(output)), {"predictions.csv", "curves.csv", "failures.csv"})
            self.assertEqual(headless.main(["--manifest", "nowhere.csv", "--output", output]), errors.USAGE_ERROR)


def run() -> bool:
    import CNNSurvival

    load = unittest.TestLoader().loadTestsFromTestCase
    suite = unittest.TestSuite([load(CNNSurvival.CNNSurvivalTest), load(Numbers)])
    return unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite).wasSuccessful()


try:
    passed = run()
except Exception:
    traceback.print_exc()
    passed = False
import slicer  # noqa: E402  after the tests: what fails above must be seen first

print("All tests passed in Slicer." if passed else "Tests failed in Slicer.", flush=True)
slicer.util.exit(0 if passed else 1)
