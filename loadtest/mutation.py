"""What could a hostile sender send? Envelopes spoilt at every depth, signed again where a spoilt part must get past.

Everything comes from one seed, in one order, so that a finding can be made again.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import msgspec

from device_sim.identity import Fleet, Identity
from device_sim.sampling import BATTERY_CHARGING, DIAGNOSTICS, SECURITY_EVENT, VEHICLE_STATE, observe_kinds
from device_sim.wire import LABEL_CLAIMS, Claims, Sample, Schema, Signer, header, load, sign, wrap
