"""`fit`: from data and programs to a trained model."""
