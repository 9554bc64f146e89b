"""Most of a column map: who by the name of the file; time and label are added."""

OWN_MAP = """
sampling_rate_hz: 20
channels: {acc_x: {column: ax, unit: m/s^2}, acc_y: {column: ay, unit: m/s^2}}
subject: {from_name: "(?P<subject>[a-z]+).*"}
"""
