"""Training: from labelled images to a run folder. PyTorch, timm, torchvision."""
