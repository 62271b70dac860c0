"""Native PyTorch package for DPA-1 and DPA-2 deep-potential models."""
