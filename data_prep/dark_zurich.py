"""Dark Zurich: unlabelled night, twilight and day; 50 labelled frames at night."""

from data_prep.anonymised import AnonymisedFrames, Part

_REFERENCE = "_ref_rgb_anon"


class DarkZurichSegmentation(AnonymisedFrames):
    """Splits `night_train`, `twilight_train`, `day_train` (unlabelled), `night_val`.

    Where their images are there: `night_test` (labels withheld), and the same places
    by day, `day_val_ref` and `day_test_ref`, under the ids of their frames.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    rgb_anon/{train,val,test}/{night,twilight,day}/<recording>/*_rgb_anon.png,
    rgb_anon/{val,test}_ref/day/<recording>_ref/*_ref_rgb_anon.png and
    gt/val/night/<recording>/*_gt_labelTrainIds.png from trace.ethz.ch; the archives may
    lie in folders of their own. Any split may be absent.
    """
    dataset = "dark_zurich"
    parts = {  # noqa: RUF012
        "night_train": Part(folder="train/night"),
        "twilight_train": Part(folder="train/twilight"),
        "day_train": Part(folder="train/day"),
        "night_val": Part(folder="val/night", labels="needed"),
        "night_test": Part(folder="test/night"),
        "day_val_ref": Part(folder="val_ref/day", ending=_REFERENCE),
        "day_test_ref": Part(folder="test_ref/day", ending=_REFERENCE),
    }
    published = {  # noqa: RUF012
        **{"night_train": 2416, "twilight_train": 2920, "day_train": 3041},
        **{"night_val": 50, "night_test": 151},
    }


Builder = DarkZurichSegmentation
