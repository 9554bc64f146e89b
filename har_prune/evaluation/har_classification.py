"""Classification metric for activity recognition, loadable with `evaluate.load` from this very file.

    metric = evaluate.load("har_prune/evaluation/har_classification.py")

Accuracy, macro-F1 and the per-class report of scikit-learn in one `compute`.
"""

import datasets
import evaluate
from sklearn.metrics import accuracy_score, classification_report, f1_score

_DESCRIPTION = "Accuracy, macro-averaged F1 and a per-class report (precision, recall, F1, support)."
_CITATION = "@article{scikit-learn, title={Scikit-learn: Machine Learning in Python}, journal={JMLR}, year={2011}}"
_INPUTS = """
Args:
    predictions: Predicted class indices, [N].
    references: True class indices, [N].
    label_names: Names of the classes by index; they name the rows of `per_class`. Indices when None.

Returns:
    accuracy: share of correct predictions, in [0, 1].
    balanced_accuracy: unweighted mean of their recalls, in [0, 1].
    macro_f1: unweighted mean of the F1 of the classes that occur in the references, in [0, 1].
    per_class: {name: {precision, recall, f1, support}} for those classes.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class HarClassification(evaluate.Metric):
    """Accuracy, macro-F1 and per-class report."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references, label_names=None):
        # Classes a test subject never performed have no recall; averaging zeros for them would punish the subject.
        present = sorted(set(references))
        names = [str(label) if label_names is None else label_names[label] for label in present]
        # By number: a class may be called "accuracy", which the report has a row of its own for.
        numbers = [str(place) for place in range(len(present))]
        report = classification_report(
            references, predictions, labels=present, target_names=numbers, output_dict=True, zero_division=0
        )
        rows = [report[number] for number in numbers]
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, labels=present, average="macro", zero_division=0)),
            "balanced_accuracy": sum(row["recall"] for row in rows) / len(rows),
            "per_class": {
                name: {
                    "precision": float(row["precision"]),
                    "recall": float(row["recall"]),
                    "f1": float(row["f1-score"]),
                    "support": int(row["support"]),
                }
                for name, row in zip(names, rows, strict=True)
            },
        }
