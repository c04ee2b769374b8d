"""Distillation losses: functions of logits and features, modules where they have weights.

A loss is called by its parameters' names: see `losses.inputs.NAMES` for what training offers. The
teacher is not detached here: call it under `torch.no_grad()`, as training does.
"""

from rlkd.losses.attention import at, nst
from rlkd.losses.contrastive import CRD
from rlkd.losses.decoupled import dkd
from rlkd.losses.dist import dist
from rlkd.losses.factor_transfer import FT, ft
from rlkd.losses.hints import VID, FitNet, fitnet, vid
from rlkd.losses.inputs import LossInputs, Pair
from rlkd.losses.logits import cross_entropy, kd, supervised, supervised_views
from rlkd.losses.multilevel import mlkd
from rlkd.losses.nkd import nkd
from rlkd.losses.objective import Objective, Term
from rlkd.losses.relations import CC, cc, pkt, rkd, sp
from rlkd.losses.review import ReviewKD
from rlkd.losses.rld import rld
from rlkd.losses.simkd import SimKD
from rlkd.losses.softened import as_temperatures, log_softened
from rlkd.losses.srrl import SRRL
from rlkd.losses.standardise import standardise
from rlkd.losses.ttm import ttm, wttm

crd, reviewkd, simkd, srrl = CRD, ReviewKD, SimKD, SRRL
"""Losses whose formula needs weights: the field's spelling of the module."""

__all__ = [
    "CC",
    "CRD",
    "FT",
    "SRRL",
    "VID",
    "FitNet",
    "LossInputs",
    "Objective",
    "Pair",
    "ReviewKD",
    "SimKD",
    "Term",
    "as_temperatures",
    "at",
    "cc",
    "crd",
    "cross_entropy",
    "dist",
    "dkd",
    "fitnet",
    "ft",
    "kd",
    "log_softened",
    "mlkd",
    "nkd",
    "nst",
    "pkt",
    "reviewkd",
    "rkd",
    "rld",
    "simkd",
    "sp",
    "srrl",
    "standardise",
    "supervised",
    "supervised_views",
    "ttm",
    "vid",
    "wttm",
]
