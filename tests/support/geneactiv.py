"""A GENEActiv .bin file, written as its manual says: text, and pages of 300 samples in hexadecimal."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

_HEADER = """Device Identity
Device Unique Serial Code:012345
Device Type:GENEActiv
Device Model:1.2
Device Firmware Version:Ver06.17
Calibration Date:2023-01-01 00:00:00:000

Device Capabilities
Accelerometer Range:-8 to 8
Accelerometer Resolution:0.0039
Accelerometer Units:g
Light Meter Range:0 to 5000
Light Meter Resolution:5
Light Meter Units:lux
Temperature Sensor Range:0 to 70
Temperature Sensor Resolution:0.25
Temperature Sensor Units:deg. C

Configuration Info
Measurement Frequency:{rate:g} Hz
Measurement Period:24 Hours
Start Time:{start}
Time Zone:GMT +00:00

Trial Info
Study Centre:
Study Code:
Investigator ID:
Exercise Type:
Config Operator ID:
Config Time:{start}
Config Notes:
Extract Operator ID:
Extract Time:{start}
Extract Notes:

Subject Info
Device Location Code:left wrist
Subject Code:
Date of Birth:1990-1-1
Sex:
Height:
Weight:
Handedness Code:
Subject Notes:

Calibration Data
x gain:25600
x offset:0
y gain:25600
y offset:0
z gain:25600
z offset:0
Volts:300
Lux:800

Memory Status
Number of Pages:{pages}

"""
_PAGE = """Recorded Data
Device Unique Serial Code:012345
Sequence Number:{page}
Page Time:{time}
Unassigned:
Temperature:22.5
Battery voltage:4.1000
Device Status:Recording
Measurement Frequency:{rate}
{samples}
"""


def write_geneactiv(path: Path, values_g: np.ndarray, rate: float, start: datetime) -> None:
    """Writes whole pages of samples [T, 3]; the device keeps 1/256 g."""

    def stamp(seconds: float) -> str:
        time = start + timedelta(seconds=seconds)
        return f"{time:%Y-%m-%d %H:%M:%S}:{time.microsecond // 1000:03d}"

    pages = len(values_g) // 300
    text = _HEADER.format(rate=rate, start=stamp(0), pages=pages)
    for page in range(pages):
        codes = np.round(values_g[300 * page : 300 * page + 300] * 256).astype(int) & 0xFFF
        samples = "".join(f"{(x << 36) | (y << 24) | (z << 12):012X}" for x, y, z in codes.tolist())
        text += _PAGE.format(page=page, time=stamp(page * 300 / rate), rate=rate, samples=samples)
    path.write_bytes(text.replace("\n", "\r\n").encode())
