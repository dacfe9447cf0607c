"""ACDC: 4006 frames in fog, night, rain and snow, 1920×1080, as Cityscapes labels."""

from data_prep.anonymised import AnonymisedFrames, Part

_VAL = {"fog": 100, "night": 106, "rain": 100, "snow": 100}


class AcdcSegmentation(AnonymisedFrames):
    """Splits `fog_train`, `fog_val`, `fog_test`, … of each condition that is there.

    `fog_train_ref`, … are the same places in normal conditions, unlabelled and under
    the ids of their frames. Labels of `test` are withheld.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    rgb_anon/{fog,night,rain,snow}/{train,val,test}[_ref]/<recording>/*_anon.png and
    gt/<condition>/{train,val}/<recording>/*_gt_labelTrainIds.png from
    acdc.vision.ee.ethz.ch; the archives may lie in folders of their own
    (rgb_anon_trainvaltest/rgb_anon, gt_trainval/gt). Conditions, test, references and
    the labels of train may be absent.
    """
    dataset = "acdc"
    parts = {  # noqa: RUF012
        f"{condition}_{split}{kind}": Part(
            folder=f"{condition}/{split}{kind}",
            ending="_rgb_ref_anon" if kind else "_rgb_anon",
            labels="withheld" if kind else labels,
        )
        for condition in _VAL
        for kind in ("", "_ref")
        for split, labels in (
            ("train", "optional"),
            ("val", "needed"),
            ("test", "withheld"),
        )
    }
    published = {  # noqa: RUF012
        f"{condition}_{split}": count
        for condition, val in _VAL.items()
        for split, count in (("train", 400), ("val", val), ("test", 500))
    }


Builder = AcdcSegmentation
