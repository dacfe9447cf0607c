"""BiSMAP's learning rates."""

import numpy as np

from tests.golden.iast_optim import check_rates

SYSTEM = "bismap"


def check_schedule(path):
    case = np.load(path)
    expected = np.stack([case["lr_backbone"], case["lr_head"]], -1)
    check_rates(
        expected,
        case["iters"],
        10 * float(case["base_lr"]),
        rtol=1e-6,
        schedule="warm_poly",
        max_steps=int(case["T_max"]),
        warmup_steps=int(case["warmup_iters"]),
        end_rate=float(case["eta_min"]),
    )


CHECKERS = {"lr_schedule*.npz": check_schedule}
