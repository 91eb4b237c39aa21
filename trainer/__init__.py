"""The cloud side: from labelled pictures to a run folder. PyTorch, timm, torchvision."""
