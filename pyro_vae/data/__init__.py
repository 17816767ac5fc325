"""The user's data, on their way in: tensors, rows, batches."""
