"""Small trees in the exact format of each publisher, with numbers a test can compute by hand."""

import numpy as np
from scipy.io import savemat


def wharf(root, samples=400):
    for activity, volunteers in (("Walk", ("f1", "m2")), ("Eat_soup", ("m2",)), ("Comb_hair", ("f1",))):
        folder = root / "Data" / activity
        folder.mkdir(parents=True)
        for number, volunteer in enumerate(volunteers):
            name = f"Accelerometer-2011-04-11-13-28-{10 + number}-{activity.lower()}-{volunteer}.txt"
            (folder / name).write_text("".join(f"{t % 64} {63 - t % 64} 31\n" for t in range(samples)))
    models = root / "Data" / "MODELS" / "Walk_MODEL"
    models.mkdir(parents=True)
    (models / "Accelerometer-2011-04-11-13-28-18-walk-f1.txt").write_text("0 0 0\n" * 400)
    return root


def utd_mhad(root, samples=160):  # 3.2 s
    folder = root / "Inertial"
    folder.mkdir(parents=True)
    readings = np.tile([1.0, 0.0, -0.5, 180.0, 0.0, -90.0], (samples, 1))
    for action in (1, 21, 22, 27):
        for subject in (1, 2):
            savemat(folder / f"a{action}_s{subject}_t1_inertial.mat", {"d_iner": readings})
    return root


def uci_har(root):
    (root / "UCI HAR Dataset").mkdir(parents=True)
    (root / "UCI HAR Dataset" / "activity_labels.txt").write_text("1 WALKING\n")
    for split, subjects in (("train", [1, 1, 1, 3]), ("test", [2, 2])):
        folder = root / "UCI HAR Dataset" / split
        (folder / "Inertial Signals").mkdir(parents=True)
        (folder / f"subject_{split}.txt").write_text("".join(f"{s}\n" for s in subjects))
        (folder / f"y_{split}.txt").write_text("".join(f"{1 + n // 2}\n" for n in range(len(subjects))))
        for signal in ("total_acc", "body_acc", "body_gyro"):
            for axis in "xyz":
                line = " ".join(f" {value: .7e}" for value in np.full(128, 0.5))
                path = folder / "Inertial Signals" / f"{signal}_{axis}_{split}.txt"
                path.write_text(f"{line}\n" * len(subjects))
    return root


def wisdm(root):
    root.mkdir(parents=True, exist_ok=True)
    step = 50_000_000
    lines = [f"33,Jogging,{49105962326000 + n * step},-0.69,12.68,0.50;" for n in range(120)]
    lines[10] = lines[10] + lines.pop(11)  # two records on a line
    lines.insert(20, "")
    lines[30] = lines[30].replace(";", ",;")  # a comma too many
    lines += [
        f"17,Walking,{n * step + 1},0.5,9.8,;" if n == 3 else f"17,Walking,{n * step + 1},0.5,9.8,1;"
        for n in range(100)
    ]
    lines += ["17,Walking,0,0,0,0.0;"]
    lines += [f"17,Walking,{n * step + 1},0.5,9.8,1;" for n in range(100)]
    lines += [f"17,Sitting,{n * step + (n % 3 == 1) * 7_000_000 + 1},{n % 5},9.8,1;" for n in range(100)]  # jitter
    lines += [f"5,Jogging,{n * 110_000_000 + 1},0.5,9.8,1;" for n in range(300)]  # at 9.1 Hz
    (root / "WISDM_ar_v1.1_raw.txt").write_text("\n".join(lines) + "\n")
    return root


def pamap2(root, samples=700):
    folder = root / "PAMAP2_Dataset" / "Protocol"
    folder.mkdir(parents=True)
    table = np.full((3 * samples, 54), 1.0)
    table[:, 0] = 8.38 + np.arange(len(table)) / 100
    table[:, 1] = np.repeat([0, 4, 24], samples)
    table[:, 2] = np.nan  # heart rate, every tenth sample at best
    table[:, [3 + 1, 3 + 17 + 1, 3 + 34 + 1]] = 9.4, 9.81, 9.6  # hand, chest and ankle, first axis at 16 g
    table[samples + 50 : samples + 60, 4:] = np.nan  # a tenth of a second: filled
    table[2 * samples + 300 : 2 * samples + 400, 4:21] = np.nan  # a second of the hand: cut
    for subject in (101, 102):
        with (folder / f"subject{subject}.dat").open("w") as file:
            file.writelines(" ".join("NaN" if np.isnan(v) else f"{v:.2f}" for v in row) + "\n" for row in table)
    return root


def mhealth(root, samples=300):
    folder = root / "MHEALTHDATASET"
    folder.mkdir(parents=True)
    table = np.zeros((3 * samples, 24))
    table[:, [0, 5, 14]], table[:, [8, 17]] = -9.8, 1.0  # a magnetometer's, where the README says gyroscope
    table[:, 11], table[:, 20], table[:, 23] = 90.0, 45.0, np.repeat([0, 1, 12], samples)
    for subject in (1, 10):
        with (folder / f"mHealth_subject{subject}.log").open("w") as file:
            file.writelines("\t".join(f"{value:g}" for value in row) + "\n" for row in table)
    return root


def usc_had(root, samples=600, *, wrapped=False):
    readings = np.tile([1.0, 0.0, 0.0, 0.0, 0.0, 180.0], (samples, 1))
    for subject in (1, 14):
        folder = root / "USC-HAD" / f"Subject{subject}"
        folder.mkdir(parents=True)
        for activity in (1, 12):
            content = {"title": "USC-HAD", "subject": str(subject), "sensor_readings": readings}
            savemat(folder / f"a{activity}t1.mat", {"data": content} if wrapped else content)
    return root


TREES = {
    "wharf": wharf, "utd_mhad": utd_mhad, "uci_har": uci_har, "wisdm": wisdm, "pamap2": pamap2, "mhealth": mhealth,
    "usc_had": usc_had,
}  # fmt: skip
