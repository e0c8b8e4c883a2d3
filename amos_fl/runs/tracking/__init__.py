"""Trackers: MLflow, Weights & Biases, TensorBoard, and whatever a user brings, beside a run."""
