"""A made-up patient in the Sample Data module, made on this computer when it is asked for."""


def register(icon: str) -> None:
    """icon: the path of the picture that Sample Data shows."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="CNN Survival",
        sampleName="CNNSurvivalPhantom",
        thumbnailFileName=icon,
        uris="",
        fileNames="",
        nodeNames="",
        customDownloader=_make,
    )


def _make(source):
    from CNNSurvivalLib.mrml.sample import add_sample

    return add_sample()[0]
